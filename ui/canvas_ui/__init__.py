"""The editor: a Gradio page around a node canvas, and the server that both talk to."""
