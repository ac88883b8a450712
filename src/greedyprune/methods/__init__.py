"""One file per published method or control. A method sees one image's cues and no model; the registry lists it."""
