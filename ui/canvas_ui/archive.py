"""Files to take home: a folder as a zip."""

import io
import re
import zipfile
from collections.abc import Mapping

from canvas_rt.ir.document import Document


def file_name(document: Document) -> str:
    """A document's name as a file's."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", document.name).strip("-.")[:80] or "model"


def zipped(files: Mapping[str, str | bytes], folder: str) -> bytes:
    """Files as a zip with one folder. The same files give the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(f"{folder}/{name}")  # its date is a constant
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return buffer.getvalue()
