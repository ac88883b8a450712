"""One file per published method or control. A method sees one image's cues and no model; it is listed in the registry."""
