"""Gestures: what people do on a canvas (draw a wire, drop a node on it, delete, paste), as edits."""
