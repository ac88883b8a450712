"""One file per published method or control. A method sees one image's cues and no model. The registry lists it."""
