"""Packages are fetched once, whole or not at all, and are offline afterwards."""

import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile

import pytest

from modeling_unimur.data.cache import PackageUnavailable, cache_dir
from unimur_mini import packages
from unimur_mini.packages import debian_package, pip_package


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def index(tmp_path, monkeypatch):
    """An index on this disk with one wheel in it; pip's own configuration is not read."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "Tiny_Pictures-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_pictures/picture.txt", "a picture")
        information = "tiny_pictures-1.2.dist-info"
        wheel.writestr(f"{information}/METADATA", "Metadata-Version: 2.1\nName: Tiny_Pictures\nVersion: 1.2\n")
        wheel.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{information}/RECORD", "")
    (wheel,) = folder.iterdir()
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    for version in ("1.2", "9.9"):
        monkeypatch.setitem(packages.WHEEL_HASHES, f"tiny-pictures=={version}", digest)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_wheel_is_unpacked_and_then_used_offline(index):
    folder = pip_package("tiny-pictures==1.2")
    assert folder == cache_dir() / "packages" / "tiny-pictures-1.2"
    assert (folder / "tiny_pictures" / "picture.txt").read_text() == "a picture"
    shutil.rmtree(index)
    assert pip_package("tiny-pictures==1.2") == folder
    assert [path.name for path in folder.parent.iterdir()] == ["tiny-pictures-1.2"]


def test_package_that_is_not_there_names_itself_and_leaves_nothing(index):
    with pytest.raises(PackageUnavailable, match=r"tiny-pictures==9\.9"):
        pip_package("tiny-pictures==9.9")
    assert list((cache_dir() / "packages").iterdir()) == []


def test_a_wheel_with_another_hash_is_refused_and_leaves_nothing(index):
    (wheel,) = index.iterdir()
    with zipfile.ZipFile(wheel, "a") as file:
        file.writestr("tiny_pictures/more.txt", "something else")
    with pytest.raises(PackageUnavailable, match=r"(?i)tiny-pictures==1\.2.*hash"):
        pip_package("tiny-pictures==1.2")
    assert list((cache_dir() / "packages").iterdir()) == []


def test_no_code_of_a_source_archive_is_run(index, tmp_path, monkeypatch):
    (wheel,) = index.iterdir()
    wheel.unlink()
    marker, archive = tmp_path / "marker", index / "tiny_pictures-1.2.tar.gz"
    content = f"open({str(marker)!r}, 'w').close()\n".encode()
    with tarfile.open(archive, "w:gz") as file:
        member = tarfile.TarInfo("tiny_pictures-1.2/setup.py")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(packages.WHEEL_HASHES, "tiny-pictures==1.2", digest)
    with pytest.raises(PackageUnavailable, match=r"tiny-pictures==1\.2"):
        pip_package("tiny-pictures==1.2")
    assert not marker.exists()


@pytest.mark.parametrize("requirement", ["other==1.0", "numpy", "--index-url==x", "tiny-pictures==1.2 b==2", ""])
def test_a_package_without_a_known_hash_is_not_fetched(index, requirement):
    with pytest.raises(ValueError, match="hash"):
        pip_package(requirement)


def test_every_requirement_has_a_hash():
    named = {value for name, value in vars(packages).items() if name.endswith("_REQUIREMENT")}
    assert named == set(packages.WHEEL_HASHES)


@pytest.fixture
def apt(tmp_path, monkeypatch):
    """An apt-get that hands out one real Debian archive, and fails for other names as the real one does."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not on this system")
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN" / "control").write_text(
        "Package: tiny-art\nVersion: 1:2-3\nArchitecture: all\nMaintainer: A <a@b.c>\nDescription: art\n"
    )
    (tree / "usr/share/tiny").mkdir(parents=True)
    (tree / "usr/share/tiny/art.txt").write_text("art")
    archive = tmp_path / "tiny-art_1%3a2-3_all.deb"
    subprocess.run(["dpkg-deb", "--build", tree, archive], check=True, capture_output=True)
    tools = tmp_path / "bin"
    tools.mkdir()
    script = tools / "apt-get"
    script.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n'
        f'case "$*" in *update*) touch {tmp_path}/lists; exit 0;; esac\n'
        f'if [ ! -e {tmp_path}/lists ]; then echo "E: Unable to locate package" >&2; exit 100; fi\n'
        f'case "$*" in *tiny-art) cp "{archive}" . ;; *) echo "E: Unable to locate package" >&2; exit 100;; esac\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return tmp_path


def test_debian_package_is_unpacked_without_root(apt, monkeypatch):
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    (apt / "lists").touch()
    folder = debian_package("tiny-art")
    assert (folder / "usr/share/tiny/art.txt").read_text() == "art"
    (apt / "bin/apt-get").unlink()
    assert debian_package("tiny-art") == folder


def test_package_lists_are_brought_by_root_only(apt, monkeypatch):
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    with pytest.raises(PackageUnavailable, match=r"tiny-art.*apt-get update"):
        debian_package("tiny-art")
    assert "update" not in (apt / "calls").read_text()
    monkeypatch.setattr(packages.os, "geteuid", lambda: 0)
    assert (debian_package("tiny-art") / "usr/share/tiny/art.txt").is_file()
    assert "update" in (apt / "calls").read_text()
    with pytest.raises(PackageUnavailable, match="no-such-art"):
        debian_package("no-such-art")


def test_system_without_apt(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageUnavailable, match="apt-get"):
        debian_package("openclipart-png")
