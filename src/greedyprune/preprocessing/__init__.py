"""Images before a model: opening and scaling pictures, loading processors, and the part that a processor keeps."""
