"""Certificates for TLS in PEM files, as the options of the command line and of the workflows that name them."""

from pathlib import Path

from distributed.security import Security


def tls_options(folder: Path) -> list[str]:
    """Options for the files of a new authority, which `folder` gets."""
    made = Security.temporary()
    folder.mkdir()
    paths = []
    for option, text in (("ca-file", made.tls_ca_file), ("cert", made.tls_client_cert), ("key", made.tls_client_key)):
        path = folder / f"{option}.pem"
        path.write_text(text)
        paths += [f"--tls-{option}", str(path)]
    return paths
