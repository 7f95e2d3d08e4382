import contextlib
import gzip
import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_tfx.modeling.checkpoints import archives
from bert_tfx.modeling.checkpoints.archives import extract, is_archive
from bert_tfx.schema.digests import sha256_of
from bert_tfx.schema.errors import InputError

TOP = "uncased_L-2_H-8_A-2/"
RELEASE = {
    TOP: b"",
    f"{TOP}bert_config.json": b'{"vocab_size": 5}',
    f"{TOP}bert_model.ckpt.index": b"index",
    f"{TOP}bert_model.ckpt.data-00000-of-00001": bytes(range(256)) * 40,
    f"{TOP}vocab.txt": "[UNK]\n[CLS]\n[SEP]\n好\n".encode(),
}
FILES = {os.path.basename(name) for name in RELEASE} - {""}
SUFFIXES = [".zip", ".tar", ".tar.gz", ".tgz"]


def pairs(members):
    """Members as pairs: a name can be twice in a list."""
    return members.items() if isinstance(members, dict) else members


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in pairs(members):
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return str(path)


def write_tar(path, members):
    with tarfile.open(path, "w" if str(path).endswith(".tar") else "w:gz") as archive:
        for name, content in pairs(members):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def write(path, members):
    return (write_zip if str(path).endswith(".zip") else write_tar)(path, members)


def files_under(folder):
    return {
        os.path.relpath(os.path.join(parent, name), folder)
        for parent, _, names in os.walk(folder)
        for name in names
    } - {".lock"}


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


def test_release_is_unpacked_and_found_again(tmp_path, suffix):
    archive = write(tmp_path / f"release{suffix}", RELEASE)
    into = tmp_path / "cache" / "deeper"
    found = extract(archive, str(into))
    digest = hashlib.sha256((tmp_path / f"release{suffix}").read_bytes()).hexdigest()
    assert found.sha256 == digest == sha256_of(archive)
    assert found.folder == str(into / digest[:16] / TOP.rstrip("/"))
    assert found.skipped == ()
    assert files_under(found.folder) == FILES
    for name in FILES:
        assert (into / digest[:16] / TOP / name).read_bytes() == RELEASE[TOP + name]

    # The same content under another name: what is there is taken, even if it was touched.
    marker = os.path.join(found.folder, "mine.txt")
    open(marker, "w").close()
    os.rename(archive, tmp_path / f"again{suffix}")
    again = extract(str(tmp_path / f"again{suffix}"), str(into), sha256=digest.upper())
    assert again == found and os.path.exists(marker)
    assert sorted(os.listdir(into)) == [".lock", digest[:16]]


def test_release_without_a_top_folder(tmp_path, suffix):
    members = {"config.json": b"{}", "model.safetensors": b"x", "./vocab.txt": b"[UNK]\n"}
    found = extract(write(tmp_path / f"a{suffix}", members), str(tmp_path / "into"))
    assert found.folder == str(tmp_path / "into" / found.sha256[:16])
    assert files_under(found.folder) == {"config.json", "model.safetensors", "vocab.txt"}


def test_other_content_gets_its_own_folder(tmp_path, suffix):
    first = extract(write(tmp_path / f"a{suffix}", RELEASE), str(tmp_path / "into"))
    changed = {**RELEASE, f"{TOP}vocab.txt": b"[UNK]\n"}
    second = extract(write(tmp_path / f"a{suffix}", changed), str(tmp_path / "into"))
    assert first.folder != second.folder
    assert os.path.isdir(first.folder) and os.path.isdir(second.folder)


def test_pickles_and_litter_are_left_out(tmp_path, suffix):
    members = {
        **RELEASE,
        f"{TOP}pytorch_model.bin": b"\x80\x02pickle",
        f"{TOP}optimizer.PT": b"\x80",
        f"__MACOSX/{TOP}._vocab.txt": b"litter",
        f"{TOP}.DS_Store": b"litter",
    }
    found = extract(write(tmp_path / f"a{suffix}", members), str(tmp_path / "into"))
    assert found.skipped == (f"{TOP}pytorch_model.bin", f"{TOP}optimizer.PT")
    assert files_under(found.folder) == FILES


def test_weights_only_as_a_pickle(tmp_path, suffix):
    members = {"config.json": b"{}", "vocab.txt": b"[UNK]\n", "pytorch_model.bin": b"\x80"}
    refused(tmp_path, write(tmp_path / f"a{suffix}", members), "only as pytorch_model.bin.*pickle")


def refused(tmp_path, archive, match, **options):
    """Checks that an archive is refused with its name, and leaves nothing."""
    with pytest.raises(InputError, match=match) as caught:
        extract(archive, str(tmp_path / "into"), **options)
    assert str(caught.value).startswith(archive)
    assert files_under(tmp_path / "into") == set()
    assert os.listdir(tmp_path / "into") in ([], [".lock"])


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("/etc/passwd", "its path is absolute"),
        ("C:/vocab.txt", "its path is absolute"),
        ("c:vocab.txt", "its path is absolute"),
        ("../vocab.txt", "leads out"),
        ("a/../../vocab.txt", "leads out"),
        ("a/..", "leads out"),
        ("..\\vocab.txt", "backslash"),
        ("vocab\n.txt", "control character"),
        (f"{TOP}vocab.txt", "stands in the archive twice"),
        (f"{TOP}VOCAB.txt", "stands in the archive twice"),
        (f"{TOP}vocab.txt/more", "stands in the archive twice"),
        (TOP.rstrip("/"), "stands in the archive twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_names_that_are_refused(tmp_path, suffix, name, reason):
    archive = write(tmp_path / f"a{suffix}", [*RELEASE.items(), (name, b"x")])
    refused(tmp_path, archive, reason)
    assert not (tmp_path / "vocab.txt").exists()


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_in_a_tar(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("vocab.txt")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    refused(tmp_path, str(tmp_path / "a.tar.gz"), "'vocab.txt': a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo("vocab.txt")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(tmp_path, str(tmp_path / "a.zip"), "'vocab.txt': a link or a device")


def test_encrypted_member(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"vocab.txt": b"x"})
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path, archive, "'vocab.txt': encrypted")


def test_too_many_members(tmp_path, suffix):
    members = {f"file{number}": b"" for number in range(1001)}
    refused(tmp_path, write(tmp_path / f"a{suffix}", members), "more than 1,000 members")


def test_bytes_are_counted_while_they_are_written(tmp_path, suffix):
    archive = write(tmp_path / f"a{suffix}", {"config.json": b"{}", "zeros": bytes(300_000)})
    refused(tmp_path, archive, "'zeros'.*more than 300,001 bytes", max_bytes=300_001)
    assert extract(archive, str(tmp_path / "into"), max_bytes=310_000).skipped == ()


def test_size_in_the_header_is_not_trusted(tmp_path):
    archive = write_zip(tmp_path / "a.zip", {"config.json": b"{}", "zeros": bytes(3_000_000)})
    content = (tmp_path / "a.zip").read_bytes()
    size = (3_000_000).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content.replace(size, (10).to_bytes(4, "little")))
    with contextlib.suppress(InputError):
        extract(archive, str(tmp_path / "into"), max_bytes=1000)
    sizes = [
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(tmp_path / "into")
        for name in names
    ]
    assert sum(sizes) <= 1000


def test_bomb_behind_the_end_of_a_tar(tmp_path):
    write_tar(tmp_path / "a.tar", {"config.json": b"{}"})
    with gzip.open(tmp_path / "a.tgz", "wb") as file:
        file.write((tmp_path / "a.tar").read_bytes())
        file.write(bytes(1_000_000))
    refused(tmp_path, str(tmp_path / "a.tgz"), "more than 500,000 bytes", max_bytes=500_000)


BIG = 2**25
# Each block says that another one follows it.
SPARSE = bytes(504) + b"\x01" + bytes(7)


def header(kind, size):
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = kind, size
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if kind == tarfile.GNUTYPE_SPARSE:
        block[482] = 1
        block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * ord(" "))
    return bytes(block)


def write_blocks(path, *blocks):
    with gzip.open(path, "wb", compresslevel=1) as file:
        for block in blocks:
            file.write(block)
        file.write(bytes(10_240))
    return str(path)


EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


@pytest.mark.parametrize(
    ("kind", "parts"),
    [*((kind, parts) for kind in EXTENSIONS for parts in (1, 64)), (tarfile.GNUTYPE_SPARSE, 1)],
)
def test_long_headers_of_a_tar_are_not_read_into_memory(tmp_path, kind, parts):
    # As a whole, or in parts of a length that each alone may have.
    block = SPARSE if kind == tarfile.GNUTYPE_SPARSE else bytes(512)
    part = header(kind, BIG // parts) + block * (BIG // parts // len(block))
    archive = write_blocks(tmp_path / "a.tgz", *[part] * parts)
    del part
    tracemalloc.start()
    try:
        refused(tmp_path, archive, "headers of more than 1,048,576 bytes")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BIG / 2


def test_long_header_that_the_archive_does_not_hold(tmp_path):
    archive = write_blocks(tmp_path / "a.tgz", header(tarfile.GNUTYPE_LONGNAME, 2**33))
    refused(tmp_path, archive, "truncated, corrupt")


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_headers_are_limited_by_the_member_and_members_are_not(tmp_path, form):
    comment = {"comment": "a" * 400_000} if form == tarfile.PAX_FORMAT else {}
    folder = "long/" * 60
    with tarfile.open(tmp_path / "a.tgz", "w:gz", format=form) as archive:
        for name in ("config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt"):
            info = tarfile.TarInfo(folder + name)
            info.size, info.pax_headers = 2**21, comment
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    found = extract(str(tmp_path / "a.tgz"), str(tmp_path / "into"))
    assert found.skipped == (f"{folder}pytorch_model.bin",)
    assert files_under(found.folder) == {"config.json", "model.safetensors", "vocab.txt"}
    assert os.path.getsize(os.path.join(found.folder, "vocab.txt")) == 2**21


@pytest.mark.parametrize("suffix", [".tar", ".tgz"])
def test_members_that_are_left_out_are_counted(tmp_path, suffix):
    members = {"config.json": b"{}", "pytorch_model.bin": bytes(300_000)}
    archive = write(tmp_path / f"a{suffix}", members)
    refused(tmp_path, archive, "'pytorch_model.bin'.*more than 300,001 bytes", max_bytes=300_001)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_archive(tmp_path, suffix, share):
    # Bytes that do not compress, so that the cut is in the middle of a member.
    noise = b"".join(hashlib.sha256(bytes([i])).digest() for i in range(255))
    archive = write(tmp_path / f"a{suffix}", {"config.json": b"{}", "noise": noise * 2})
    content = (tmp_path / f"a{suffix}").read_bytes()
    if suffix == ".tar":
        content = content.rstrip(b"\0")
    (tmp_path / f"a{suffix}").write_bytes(content[: int(len(content) * share)])
    refused(tmp_path, archive, "truncated, corrupt")


def test_tar_that_is_cut_between_two_members(tmp_path):
    archive = write_tar(tmp_path / "a.tar", {"config.json": b"{}", "vocab.txt": b"[UNK]\n"})
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:1024])
    refused(tmp_path, archive, "its end is missing")


def test_wrong_byte_in_a_member(tmp_path):
    for suffix in (".zip", ".tgz"):
        archive = write(tmp_path / f"a{suffix}", RELEASE)
        content = bytearray((tmp_path / f"a{suffix}").read_bytes())
        content[len(content) // 3] ^= 0xFF
        (tmp_path / f"a{suffix}").write_bytes(content)
        refused(tmp_path, archive, "truncated, corrupt")


def test_wrong_offset_in_a_zip(tmp_path):
    archive = write_zip(tmp_path / "a.zip", RELEASE)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    # Where the directory begins, in the record at the end.
    content[-6:-2] = (len(content) * 2).to_bytes(4, "little")
    (tmp_path / "a.zip").write_bytes(content)
    refused(tmp_path, archive, "truncated, corrupt")


def test_no_archive_at_all(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_text("<html>404</html>" * 100)
    refused(tmp_path, str(tmp_path / f"a{suffix}"), "truncated, corrupt or no such archive")


def test_name_that_is_no_archive(tmp_path):
    with pytest.raises(InputError, match=r"a\.rar: no archive .*\.zip, \.tar\.gz, \.tgz, \.tar"):
        extract(str(tmp_path / "a.rar"), str(tmp_path))
    assert is_archive("A.ZIP") and is_archive("a.tar.gz") and not is_archive("a.gz")


def test_missing_archive(tmp_path):
    with pytest.raises(InputError, match=r"a\.zip: cannot be read: No such file"):
        extract(str(tmp_path / "a.zip"), str(tmp_path))


def test_other_checksum(tmp_path, suffix):
    archive = write(tmp_path / f"a{suffix}", RELEASE)
    with pytest.raises(InputError, match=f"SHA-256 is {sha256_of(archive)}, expected {'0' * 64}"):
        extract(archive, str(tmp_path / "into"), sha256="0" * 64)
    assert not (tmp_path / "into").exists()


def test_no_checkpoint_or_several(tmp_path, suffix):
    refused(tmp_path, write(tmp_path / f"a{suffix}", {"readme.md": b"x"}), "no checkpoint in it")
    both = {"a/config.json": b"{}", "b/bert_config.json": b"{}"}
    refused(tmp_path, write(tmp_path / f"b{suffix}", both), r"2 checkpoints in it \(a, b\)")


def test_folder_that_cannot_be_written(tmp_path):
    archive = write_zip(tmp_path / "a.zip", RELEASE)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"a\.zip: cannot be unpacked into .*file: "):
        extract(archive, str(tmp_path / "file"))


def test_full_disk(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "a.zip", RELEASE)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives._Unpacker, "write", full)
    refused(tmp_path, archive, "No space left on device; make room there")


def test_killed_call_is_redone(tmp_path):
    archive = write_zip(tmp_path / "a.zip", RELEASE)
    # The process dies while it holds the lock and has written half of the members.
    script = (
        "import os, sys\n"
        "from bert_tfx.modeling.checkpoints import archives\n"
        "write = archives._Unpacker.write\n"
        "def dies(self, name, source, path):\n"
        "    write(self, name, source, path)\n"
        "    if name.endswith('.index'): os._exit(9)\n"
        "archives._Unpacker.write = dies\n"
        "archives.extract(*sys.argv[1:])\n"
    )
    into = str(tmp_path / "into")
    assert subprocess.run([sys.executable, "-c", script, archive, into]).returncode == 9
    assert len(files_under(into)) == 2
    found = extract(archive, into)
    assert sorted(os.listdir(into)) == [".lock", found.sha256[:16]]
    assert files_under(found.folder) == FILES


NAMES = st.lists(
    st.one_of(
        st.sampled_from(["..", ".", "", "a", "b", "C:", "~", "vocab.txt", "CON", " "]),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6),
    ),
    min_size=1,
    max_size=5,
).map("/".join)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=NAMES, suffix=st.sampled_from([".zip", ".tar"]))
def test_no_name_leads_outside(tmp_path_factory, name, suffix):
    root = tmp_path_factory.mktemp("root")
    archive = write(root / f"a{suffix}", {"config.json": b"{}", name: b"outside?"})
    into = root / "one" / "two" / "three" / "into"
    try:
        found = extract(archive, str(into))
    except InputError as error:
        assert str(error).startswith(archive)
        assert files_under(root) == {f"a{suffix}"} | (
            {"one/two/three/into/.lock"} if into.exists() else set()
        )
        return
    inside = os.path.relpath(found.folder, root)
    assert all(
        path == f"a{suffix}" or path.startswith((f"{inside}/", "one/two/three/into/.lock"))
        for path in files_under(root)
    )


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), suffix=st.sampled_from(SUFFIXES))
def test_damage_is_refused_or_harmless(tmp_path_factory, data, suffix):
    root = tmp_path_factory.mktemp("root")
    archive = write(root / f"a{suffix}", RELEASE)
    content = bytearray((root / f"a{suffix}").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (root / f"a{suffix}").write_bytes(content)
    try:
        found = extract(archive, str(root / "into"), max_bytes=100_000)
    except InputError as error:
        assert str(error).startswith(archive)
        assert files_under(root) == {f"a{suffix}", "into/.lock"}
    else:
        assert found.folder.startswith(str(root / "into"))
