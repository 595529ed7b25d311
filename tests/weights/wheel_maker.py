"""Wheels made in the test: data in a zip with the metadata that pip asks for."""

import base64
import hashlib
import zipfile


def make_wheel(folder, name, version, members, *, has_record=True):
    """Write a pure-Python wheel that carries `members` (path to bytes) and return its path."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = dict(members)
    files[f"{module}/__init__.py"] = b'raise RuntimeError("the code of a wheel must never run")\n'
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    files[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    if has_record:
        lines = [f"{path},{_record_digest(data)},{len(data)}\n" for path, data in files.items()]
        files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in files.items():
            archive.writestr(member, data)
    return path


def _record_digest(data):
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
