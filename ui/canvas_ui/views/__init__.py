"""Views: what the browser draws, made from a document and what is known of it. Nothing here changes a document."""
