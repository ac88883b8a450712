"""Images in front of a model: opening pictures, scaling them down, processors, and the part that a processor keeps."""
