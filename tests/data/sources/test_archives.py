"""An archive is split like the folder it contains, or refused as a whole with nothing left."""

import io
import os
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from PIL import Image

from thesis_lib.cli.command_line import main
from thesis_lib.data.sources import archives
from thesis_lib.data.sources.archives import unpacked
from thesis_lib.data.splits import split_dataset
from thesis_lib.errors import InputError

TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
SUFFIXES = (".zip", *TARS)
Content = bytes | tuple[str, str] | None  # a file's bytes; ("link", its target); None: a folder


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 5), value % 256, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def images(top: str = "", each: int = 6) -> dict[str, Content]:
    """Two classes, one of them with a subfolder."""
    names = [f"{top}{c}{i}.png" for c in ("a b/", "δύο/cruise 1/") for i in range(each)]
    return {name: png(number) for number, name in enumerate(names)}


def as_list(members: dict[str, Content] | list[tuple[str, Content]]) -> list[tuple[str, Content]]:
    return list(members.items()) if isinstance(members, dict) else members


def make_zip(path: Path, members: dict[str, Content] | list[tuple[str, Content]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in as_list(members):
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, tuple):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
                content = content[1].encode()
            archive.writestr(info, content or b"")
    return path


def make_tar(path: Path, members: dict[str, Content] | list[tuple[str, Content]]) -> Path:
    suffix = next(s for s in TARS if path.name.endswith(s))
    with tarfile.open(path, TARS[suffix]) as archive:
        for name, content in as_list(members):
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, tuple):
                info.type, info.linkname = tarfile.SYMTYPE, content[1]
                if content[0] == "hard link":
                    info.type = tarfile.LNKTYPE
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content if isinstance(content, bytes) else b""))
    return path


def make(path: Path, members: dict[str, Content] | list[tuple[str, Content]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return (make_zip if path.suffix == ".zip" else make_tar)(path, members)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return everything in a folder, with the bytes of its files."""
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def unpack(source: Path, destination: Path) -> dict[str, bytes | None]:
    with unpacked(source, destination) as folder:
        return tree(folder)


def refusal(source: Path, destination: Path) -> str:
    """Return the error message; check that it is one line and that no file was changed."""
    before = tree(source.parent.parent)
    with pytest.raises(InputError) as raised, unpacked(source, destination):
        raise AssertionError("it was unpacked")
    assert tree(source.parent.parent) == before
    message = str(raised.value)
    assert message.isprintable() and repr(str(source)) in message
    return message


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder with a subfolder for the archive and one with a file to protect."""
    (tmp_path / "in").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine.png").write_bytes(b"mine")
    return tmp_path


def not_even_checked(*_):
    raise AssertionError("the archive was read")


@pytest.mark.parametrize("top", ["", "top/", "./", "data/plankton v1.2/"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_is_split_as_its_folder_is(place, suffix, top):
    members = images(top)
    if top:
        members = {top: None, **members}
    source = make(place / "in" / f"set{suffix}", members)
    for name, content in images().items():
        path = place / "classes" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    split_dataset(place / "classes", place / "data" / "expected")
    assert main(["split", str(source), str(place / "data" / "out")]) == 0
    assert tree(place / "data" / "out") == tree(place / "data" / "expected")
    assert sorted(os.listdir(place / "data")) == ["expected", "out"]
    files = (place / "data" / "out").rglob("*.png")
    assert {path.stat().st_nlink for path in files} == {1}  # the unpacked ones are gone


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_an_archive_is_rebuilt_by_manifests(place, suffix, capsys):
    source = make(place / "in" / f"set{suffix}", images("top/"))
    lists = []
    for number, part in enumerate(("train", "val", "test")):
        lists.append(place / f"{part}.csv")
        rows = ("folder,filename", f"a b,{number}.png", f"δύο,cruise 1/{number}.png")
        lists[-1].write_text("\n".join(rows), encoding="utf-8")
    command = ["split", str(source), str(place / "out"), "--manifest", *map(str, lists)]
    assert main(command) == 0
    for number, part in enumerate(("train", "val", "test")):
        assert (place / "out" / part / "a b" / f"{number}.png").read_bytes() == png(number)
    assert f"left out: 6 images of {source} that no manifest lists" in capsys.readouterr().out


def test_options_that_do_not_go_together_are_refused_before_the_archive_is_read(
    place, monkeypatch, capsys
):
    monkeypatch.setattr(archives, "_unpack_zip", not_even_checked)
    source = make(place / "in" / "set.zip", images())
    command = ["split", str(source), str(place / "out")]
    assert main([*command, "--allow-missing"]) == 2
    assert main([*command, "--seed", "1", "--manifest", "a.csv", "b.csv"]) == 2
    assert "--seed cannot be used with --manifest" in capsys.readouterr().err


def test_a_folder_is_taken_as_it_is_and_what_is_neither_is_refused(place, capsys):
    with unpacked(place / "in", place / "out") as folder:
        assert folder == place / "in"
    assert main(["split", str(place / "nowhere.zip"), str(place / "out")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    for content in (b"", b"\0" * 2**21, b"no archive", png(), b"PK", b"\x1f\x8b", b"BZh9", b"Rar!"):
        (place / "in" / "file").write_bytes(content)
        message = refusal(place / "in" / "file", place / "out")
        assert "or not an archive (zip, tar, " in message or "contains no images" in message


def test_junk_and_what_is_no_image_is_left_out(place):
    junk = {
        "__MACOSX/top/a b/._0.png": b"x",
        "top/__MACOSX/0.png": b"x",
        ".DS_Store": b"x",
        "top/.DS_Store": b"x",
        "top/a b/._0.png": b"x",
        "top/a b/.thumbs/0.png": b"x",
        "top/readme.txt": b"x",
        "top/a b/Thumbs.db": b"x",
    }
    for suffix in (".zip", ".tar"):
        source = make(place / "in" / f"set{suffix}", {**junk, **images("top/")})
        found = unpack(source, place / "out")
        assert {name: content for name, content in found.items() if content} == images()


def test_a_lone_class_of_images_is_no_top_folder(place):
    source = make(place / "in" / "set.zip", {"a/1.png": png(), "a/sub/2.png": png()})
    assert unpack(source, place / "out").keys() == {"a", "a/1.png", "a/sub", "a/sub/2.png"}
    source = make(place / "in" / "set.zip", {"top/a/1.png": png(), "top/a/sub/2.png": png()})
    assert unpack(source, place / "out").keys() == {"a", "a/1.png", "a/sub", "a/sub/2.png"}


def test_classes_without_an_image_are_there_as_in_a_folder(place):
    source = make(place / "in" / "set.tar", {"top/": None, "top/empty/": None, **images("top/")})
    assert unpack(source, place / "out")["empty"] is None


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"notes.txt": b"x"}, "contains no images"),
        ({"a/1.png": png(), "b/2.png": png()}, "needs at least 4 images per class"),
    ],
)
def test_what_a_split_refuses_is_told_of_the_archive(place, members, words, capsys):
    source = make(place / "in" / "set.zip", members)
    before = tree(place)
    assert main(["split", str(source), str(place / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and "partial" not in error and len(error.splitlines()) == 1
    assert tree(place) == before


def test_a_destination_in_use_is_refused_before_the_archive_is_read(place, monkeypatch):
    source = make(place / "in" / "set.zip", images())
    monkeypatch.setattr(archives, "_unpack_zip", not_even_checked)
    with pytest.raises(InputError, match="already exists"), unpacked(source, place / "outside"):
        pass


CLIMBING = {
    "up": "../outside/mine.png",
    "up from a class": "a b/../../outside/mine.png",
    "absolute": "{root}/outside/mine.png",
}


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("case", CLIMBING)
def test_a_member_that_climbs_out_or_is_absolute_is_refused(place, case, suffix):
    name = CLIMBING[case].format(root=place)
    source = make(place / "in" / f"set{suffix}", {**images(), name: b"theirs"})
    message = refusal(source, place / "out")
    assert repr(name) in message
    assert "has a path outside the archive's folder" in message


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_backslashes_of_windows_separate_folders(place, suffix):
    members = {name.replace("/", "\\"): content for name, content in images("top/").items()}
    source = make(place / "in" / f"set{suffix}", {"top\\a b\\": None, **members})
    assert unpack(source, place / "out") == unpack(
        make(place / "in" / f"same{suffix}", images("top/")), place / "out"
    )


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize(
    "name", ["C:/x.png", "c:x.png", "\\x.png", "a\\..\\..\\x.png", "\\\\h\\s\\x"]
)
def test_a_path_of_windows_is_refused(place, name, suffix):
    source = make(place / "in" / f"set{suffix}", {**images(), name: png()})
    message = refusal(source, place / "out")
    assert repr(name) in message and "outside the archive's folder" in message
    # where Windows would write it
    there = PureWindowsPath("D:/data", name)
    assert ".." in there.parts or not there.is_relative_to("D:/data")


LINKS = [(".zip", "link"), (".tar", "link"), (".tar.gz", "link"), (".tar", "hard link")]


@pytest.mark.parametrize(("suffix", "kind"), LINKS)
def test_links_are_refused(place, suffix, kind):
    where = "../outside/mine.png"
    source = make(place / "in" / f"set{suffix}", {**images(), "a b/link.png": (kind, where)})
    assert "'a b/link.png' is a link or a device" in refusal(source, place / "out")
    source = make(
        place / "in" / f"set{suffix}", {"a b": (kind, "../outside"), "a b/mine.png": b"theirs"}
    )
    assert "'a b' is a link or a device" in refusal(source, place / "out")


@pytest.mark.parametrize("kind", [tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, b"Z"])
def test_devices_and_pipes_are_refused(place, kind):
    with tarfile.open(place / "in" / "set.tar", "w") as archive:
        info = tarfile.TarInfo("a b/device.png")
        info.type = kind
        archive.addfile(info)
    assert "is a link or a device" in refusal(place / "in" / "set.tar", place / "out")
    with zipfile.ZipFile(place / "in" / "set.zip", "w") as archive:
        info = zipfile.ZipInfo("a b/device.png")
        info.external_attr = stat.S_IFIFO << 16
        archive.writestr(info, b"")
    assert "is a link or a device" in refusal(place / "in" / "set.zip", place / "out")


DOUBLED = {
    "same": ("a b/0.png", "a b/0.png"),
    "same by another path": ("a b/0.png", "./a b//0.png"),
    "capitals": ("a b/0.png", "a b/0.PNG"),
    "normal form": (
        unicodedata.normalize("NFC", "a b/é.png"),
        unicodedata.normalize("NFD", "a b/é.png"),
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
@pytest.mark.parametrize("case", DOUBLED)
def test_doubled_names_are_refused(place, case, suffix):
    first, second = DOUBLED[case]
    members = [("c/0.png", png()), (first, png(1)), ("d/0.png", png()), (second, png(2))]
    message = refusal(make(place / "in" / f"set{suffix}", members), place / "out")
    assert repr(second) in message
    assert "is a duplicate" in message


def test_a_folder_may_be_listed_as_often_as_it_likes(place):
    members = [("a b/", None), ("a b/", None), *images().items(), ("a b/", None), ("./", None)]
    source = make(place / "in" / "set.tar", members)
    assert images().items() <= unpack(source, place / "out").items()


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
@pytest.mark.parametrize("name", ["a\n/1.png", "a/\x1b[2J.png", "a/\x7f.png", "\x85/1.png"])
def test_names_that_cannot_be_printed_are_refused(place, name, suffix, capsys):
    source = make(place / "in" / f"set{suffix}", {**images(), name: png()})
    before = tree(place)
    assert main(["split", str(source), str(place / "out")]) == 2
    error = capsys.readouterr().err
    assert "control character" in error and str(source) in error and len(error.splitlines()) == 1
    assert tree(place) == before


@pytest.mark.parametrize("name", ["a/1.png", "a/notes.txt"])
@pytest.mark.parametrize("size", [-512, -1024])
def test_a_negative_size_is_refused(place, size, name):
    header = bytearray(tarfile.TarInfo(name).tobuf())
    header[124:136] = b"\xff" + (2**88 + size).to_bytes(11)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (place / "in" / "set.tar").write_bytes(bytes(header) + bytes(10240))
    assert "has a negative size" in refusal(place / "in" / "set.tar", place / "out")


def renamed(path: Path, before: bytes, after: bytes) -> Path:
    """Replace a name by one of equal length in an archive that has no checksum of names."""
    content = path.read_bytes()
    assert before in content and len(before) == len(after)
    path.write_bytes(content.replace(before, after))
    return path


def test_names_that_are_not_utf_8_are_refused(place):
    source = make(place / "in" / "set.zip", {**images(), "caf_/1.png": png()})
    message = refusal(renamed(source, b"caf_/1", b"caf\xe9/1"), place / "out")
    assert "b'caf\\xe9/1.png', which is not UTF-8" in message
    with tarfile.open(place / "in" / "set.tar", "w", encoding="latin-1", format=0) as archive:
        archive.addfile(tarfile.TarInfo("café/1.png"))
    assert "which is not UTF-8" in refusal(place / "in" / "set.tar", place / "out")


def test_utf_8_that_a_zip_does_not_declare_is_read(place):
    """macOS writes such archives."""
    source = make(place / "in" / "set.zip", {**images(), "caf__/1.png": png()})
    found = unpack(renamed(source, b"caf__/1", "café/1".encode()), place / "out")
    assert found["café/1.png"] == png()


def patched_zip(path: Path, offset: int, code: str, *values: int) -> Path:
    """Change fields of the last member, in its local header and in the central directory.

    ``offset`` is the offset in the directory entry; in the header it is two bytes less.
    """
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\1\2", offset), (b"PK\3\4", offset - 2)):
        struct.pack_into(code, content, content.rfind(mark) + at, *values)
    path.write_bytes(content)
    return path


FLAGS, METHOD, SIZE = 8, 10, 24  # offsets of fields in a zip's central directory


def test_encrypted_and_oddly_packed_members_of_a_zip_are_refused(place):
    source = make(place / "in" / "set.zip", images())
    assert "is encrypted" in refusal(patched_zip(source, FLAGS, "<H", 1), place / "out")
    source = make(place / "in" / "set.zip", images())
    message = refusal(patched_zip(source, METHOD, "<H", 97), place / "out")
    assert "compression" in message


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_a_bomb_is_refused_by_its_ratio(place, monkeypatch, suffix):
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    source = make(place / "in" / f"set{suffix}", {**images(), "a b/bomb.png": bytes(2**21)})
    assert "'a b/bomb.png' brings the unpacked size to 2,09" in refusal(source, place / "out")
    monkeypatch.setattr(archives, "BOMB_RATIO", 2**20)  # without the check it is unpacked
    assert len(unpack(source, place / "out")["a b/bomb.png"]) == 2**21


def test_many_small_bombs_make_one(place, monkeypatch):
    monkeypatch.setattr(archives, "BOMB_BYTES", 2**20)
    members = {f"a b/{i:03d}.txt": bytes(2**14) for i in range(500)}  # not images, but counted
    source = make(place / "in" / "set.zip", members)
    assert "may be a decompression bomb" in refusal(source, place / "out")


def test_a_bomb_of_terabytes_is_refused_by_its_header_alone(place):
    info = tarfile.TarInfo("a b/bomb.png")
    info.size = 2**42
    (place / "in" / "set.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    assert "brings the unpacked size to 4,398,046,511,104 bytes" in refusal(
        place / "in" / "set.tar", place / "o"
    )
    source = patched_zip(make(place / "in" / "set.zip", images()), SIZE, "<I", 2**32 - 2)
    assert "may be a decompression bomb" in refusal(source, place / "out")


def test_more_than_the_disk_holds_is_refused(place, monkeypatch):
    needed = sum(map(len, images(each=6).values()))
    free = archives.MARGIN_BYTES + needed
    disk = type(shutil.disk_usage(place))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk(2**40, 2**40 - free, free))
    source = make(place / "in" / "set.zip", images(each=6))
    assert len(unpack(source, place / "deep" / "out")) == 15
    shutil.rmtree(place / "deep")
    source = make(place / "in" / "set.zip", images(each=7))
    assert f"only {needed:,} bytes are free" in refusal(source, place / "out")


def test_a_zip_that_lies_about_a_size_is_refused_and_never_written_beyond_it(place, monkeypatch):
    source = make(place / "in" / "set.zip", {**images(), "z/lie.png": bytes(2**24)})
    patched_zip(source, SIZE, "<I", 100)
    written = []
    monkeypatch.setattr(shutil, "rmtree", lambda p, **_: written.extend(Path(p).rglob("lie.png")))
    with pytest.raises(InputError, match="cannot be read: BadZipFile Bad CRC"):
        unpack(source, place / "out")
    assert len(written) == 1 and written[0].stat().st_size <= 100


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_that_is_cut_short_is_refused(place, suffix):
    source = make(place / "in" / f"set{suffix}", images("top/"))
    content = source.read_bytes()
    # The zeros that pad a plain tar after its end may be missing.
    last = len(content.rstrip(b"\0")) if suffix == ".tar" else len(content)
    for keep in range(0, last, max(1, last // 20)):
        source.write_bytes(content[:keep])
        assert "cannot be read" in refusal(source, place / "out")
    source.write_bytes(content[: last - 1])
    refusal(source, place / "out")


def test_a_tar_that_is_cut_between_two_members_is_refused(place):
    source = make(place / "in" / "set.tar", images())
    with tarfile.open(source) as archive:
        cut = archive.getmembers()[5].offset
    source.write_bytes(source.read_bytes()[:cut])
    assert f"no end marker after {cut:,} bytes" in refusal(source, place / "out")
    with tarfile.open(source) as archive:  # tarfile itself does not notice
        assert len(archive.getmembers()) == 5


def test_a_tar_with_a_damaged_header_is_refused(place):
    source = make(place / "in" / "set.tar", images())
    with tarfile.open(source) as archive:
        at = archive.getmembers()[5].offset
    for zeros in (1, 512):
        content = bytearray(source.read_bytes())
        content[at : at + zeros] = bytes(zeros)
        source.write_bytes(content)
        assert f"no end marker after {at:,} bytes" in refusal(source, place / "out")
        with tarfile.open(source) as archive:  # tarfile itself stops as if it were the end
            assert len(archive.getmembers()) == 5


def test_a_zip_whose_list_names_a_member_otherwise_is_refused(place):
    source = make(place / "in" / "set.zip", {**images(), "a b/unique.png": png()})
    content = source.read_bytes()
    at = content.rfind(b"unique.png")
    source.write_bytes(content[:at] + b"uniqux.png" + content[at + 10 :])
    assert "uniqux.png" in refusal(source, place / "out")


def test_a_large_zip_tells_its_members_elsewhere(place, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 3)
    source = make(place / "in" / "set.zip", images())
    assert b"PK\6\6" in source.read_bytes()
    assert len(unpack(source, place / "out")) == 15


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_damage_that_shows_late_removes_everything_and_is_named(place, suffix, monkeypatch):
    members = {**images(), "z/last.png": os.urandom(5000)}
    source = make(place / "in" / f"set{suffix}", members)
    content = bytearray(source.read_bytes())
    content[-2500] ^= 1  # within the last member
    source.write_bytes(content)
    message = refusal(source, place / "out")
    if suffix == ".zip":  # a tar.gz has a single checksum, which is verified earlier
        assert "Bad CRC-32 for file 'z/last.png'" in message
        monkeypatch.setattr(zipfile.ZipExtFile, "_update_crc", lambda *_: None)
        found = unpack(source, place / "out")["z/last.png"]  # without the check: a wrong image
        assert found != members["z/last.png"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_midway_leaves_nothing_behind(place, monkeypatch, error):
    source = make(place / "in" / "set.tar.gz", images())
    before, extract, calls = tree(place), tarfile.TarFile.extract, []

    def fail_at_the_fifth(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 5:
            raise error
        extract(*arguments, **options)

    monkeypatch.setattr(tarfile.TarFile, "extract", fail_at_the_fifth)
    with pytest.raises(type(error)), unpacked(source, place / "out"):
        pass
    assert len(calls) == 5 and tree(place) == before


def test_failure_of_the_split_leaves_nothing_behind(place):
    source = make(place / "in" / "set.zip", images())
    before = tree(place)
    with pytest.raises(OSError, match="No space"), unpacked(source, place / "out") as folder:
        assert folder.parent == place and len(tree(folder)) == 15
        raise OSError(28, "No space left on device")
    assert tree(place) == before


def test_what_a_killed_process_of_the_same_number_left_is_no_part_of_the_data(place):
    left = place / f".out.{os.getpid()}.unpacked.partial" / "stray"
    left.mkdir(parents=True)
    (left / "0.png").write_bytes(png())
    assert "stray" not in unpack(make(place / "in" / "set.zip", images()), place / "out")
