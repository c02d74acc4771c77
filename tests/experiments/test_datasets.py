"""Do experiments get the published data, and nothing else?"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import cifar10, datasets
from experiments.datafile import DataFile
from experiments.idx import read_idx
from pipeline import ConfigurationError

needs_data = pytest.mark.skipif(not os.environ.get("DNI_DATA"), reason="DNI_DATA names no folder with real data")
_RANDOM = np.random.default_rng(0)
_IMAGES = _RANDOM.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)
_LABELS = _RANDOM.integers(0, 10, 6, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DNI_DATA, and an empty cache of downloads beside it."""
    monkeypatch.setenv("DNI_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    return tmp_path / "data"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the URL it is served under."""
    served = tmp_path / "served"
    served.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_QuietHandler, directory=str(served))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield served, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing."""


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return gzip.compress(head + values.tobytes())


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def put(file: DataFile, content: bytes, folder: Path) -> DataFile:
    """Write `content` as `file`; returns the file with the checksum that this content has."""
    path = folder / file.folder / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return replace(file, checksum=sha256(content))


def archive(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def pickled(images: np.ndarray, labels: np.ndarray) -> bytes:
    batch = {"data": images.reshape(len(images), -1), "labels": labels.tolist(), "batch_label": "made up"}
    return pickle.dumps(batch, protocol=3)


def normalised(images: np.ndarray, mean: list[float], deviation: list[float]) -> torch.Tensor:
    x = torch.tensor(images).double() / 255
    return (x - torch.tensor(mean).double()[:, None, None]) / torch.tensor(deviation).double()[:, None, None]


CIFAR_MEAN, CIFAR_DEVIATION = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def test_idx_file_gives_its_array(tmp_path: Path) -> None:
    values = _RANDOM.integers(0, 256, (3, 4, 5), dtype=np.uint8)
    (tmp_path / "a.gz").write_bytes(idx(values))
    assert np.array_equal(read_idx(tmp_path / "a.gz"), values)


def test_idx_file_of_another_type_or_length_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 13, 1, 1) + bytes(4)))
    with pytest.raises(ConfigurationError, match=r"a\.gz must begin with the bytes 0 0 8 .* found \[0, 0, 13\]"):
        read_idx(path)
    path.write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, 5) + bytes(4)))
    with pytest.raises(ConfigurationError, match=r"a\.gz must hold 5 values \(5,\), found 4"):
        read_idx(path)


def test_mnist_and_fashion_mnist_are_read_and_normalised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = _RANDOM.integers(0, 256, (7, 28, 28), dtype=np.uint8)
    contents = [idx(images[:5]), idx(_LABELS[:5]), idx(images[5:]), idx(_LABELS[:2])]
    cases = (("_MNIST", datasets.mnist, 0.1307, 0.3081), ("_FASHION_MNIST", datasets.fashion_mnist, 0.2860, 0.3530))
    for name, load, mean, deviation in cases:
        files = [put(file, content, folder) for file, content in zip(getattr(datasets, name), contents, strict=True)]
        monkeypatch.setattr(datasets, name, files)
        data = load("image")
        assert data.train_x.shape == (5, 1, 28, 28) and data.test_x.shape == (2, 1, 28, 28)
        assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
        wanted = normalised(images[:5, None], [mean], [deviation])
        torch.testing.assert_close(data.train_x.double(), wanted, rtol=0, atol=1e-6)
        assert data.train_y.tolist() == _LABELS[:5].tolist() and data.num_classes == 10
        assert torch.equal(load("flat").train_x, data.train_x.flatten(1))


def test_cifar10_is_read_alike_from_pickles_and_binaries(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [*cifar10.TRAIN, *cifar10.TEST]
    parts = dict(zip(names, zip(_IMAGES[:, None], _LABELS[:, None], strict=True), strict=True))
    binaries = archive({f"cifar-10-batches-bin/{n}.bin": bytes([y[0]]) + x.tobytes() for n, (x, y) in parts.items()})
    monkeypatch.setattr(datasets, "_CIFAR10_BINARY", put(datasets._CIFAR10_BINARY, binaries, folder))
    from_binaries = datasets.cifar10()
    pickles = archive({f"cifar-10-batches-py/{n}": pickled(x, y) for n, (x, y) in parts.items()})
    monkeypatch.setattr(datasets, "_CIFAR10_PYTHON", put(datasets._CIFAR10_PYTHON, pickles, folder))
    from_pickles = datasets.cifar10()
    for data in (from_binaries, from_pickles):
        wanted = normalised(_IMAGES, CIFAR_MEAN, CIFAR_DEVIATION)
        torch.testing.assert_close(data.train_x.double(), wanted[:5], rtol=0, atol=1e-6)
        torch.testing.assert_close(data.test_x.double(), wanted[5:], rtol=0, atol=1e-6)
        assert [*data.train_y.tolist(), *data.test_y.tolist()] == _LABELS.tolist()


def test_residual_gives_the_pixels_back(tmp_path: Path) -> None:
    coded = _IMAGES.copy()
    coded[:, 0] -= coded[:, 1]
    coded[:, 2] -= coded[:, 1]
    for axis in (2, 3):
        coded = np.diff(coded, axis=axis, prepend=np.uint8(0))
    np.savez(tmp_path / "a.npz", residual=coded, labels=_LABELS)
    images, labels = cifar10.read_residual(tmp_path / "a.npz")
    assert np.array_equal(images, _IMAGES) and np.array_equal(labels, _LABELS)


def test_unpickler_refuses_to_call_anything_but_numpy() -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("exit 1",)

    with pytest.raises(pickle.UnpicklingError, match=r"numpy arrays only, found (posix|nt)\.system"):
        cifar10.unpickle_arrays(pickle.dumps({"data": Harmful()}))


def test_unpickler_reads_what_python_2_wrote() -> None:
    """The published files name numpy.core, hold strings of bytes, and were written under protocol 2."""
    written = (
        b"\x80\x02}U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x02\x05\xfftbs."
    )
    assert cifar10.unpickle_arrays(written)["data"].tolist() == [5, 255]


def test_wrong_checksum_of_a_found_file_is_refused(folder: Path) -> None:
    file = put(DataFile(folder="mnist", name="a.gz", checksum=""), b"right", folder)
    path = folder / "mnist" / "a.gz"
    assert file.find() == path
    path.write_bytes(b"wrong")
    with pytest.raises(ConfigurationError) as caught:
        file.find()
    for part in (str(path), file.checksum, sha256(b"wrong"), "Delete it"):
        assert part in str(caught.value)


def test_missing_file_is_downloaded_once(folder: Path, server: tuple[Path, str]) -> None:
    served, url = server
    (served / "a.gz").write_bytes(b"content")
    file = DataFile(folder="mnist", name="a.gz", checksum=sha256(b"content"), url=f"{url}/a.gz")
    path = file.find()
    assert path.read_bytes() == b"content" and folder.parent / "cache" in path.parents
    (served / "a.gz").unlink()
    assert file.find() == path


def test_wrong_checksum_of_a_download_is_refused(folder: Path, server: tuple[Path, str]) -> None:
    served, url = server
    (served / "a.gz").write_bytes(b"wrong")
    file = DataFile(folder="mnist", name="a.gz", checksum=sha256(b"right"), url=f"{url}/a.gz")
    with pytest.raises(ConfigurationError) as caught:
        file.find()
    for part in ("a.gz must have the checksum", file.checksum, sha256(b"wrong").removeprefix("sha256:"), url):
        assert part in str(caught.value)
    assert not list(folder.parent.glob("cache/**/a.gz"))


def test_unreachable_file_says_where_to_put_it(folder: Path, server: tuple[Path, str]) -> None:
    file = DataFile(folder="mnist", name="a.gz", checksum=sha256(b""), url=f"{server[1]}/a.gz")
    with pytest.raises(ConfigurationError, match=r"mnist/a\.gz could not be downloaded .* 404 .*set DNI_DATA"):
        file.find()
    with pytest.raises(ConfigurationError, match=r"mnist/a\.gz is not downloadable and was not found under DNI_DATA"):
        replace(file, url="").find()


@needs_data
def test_real_mnist_has_its_published_classes() -> None:
    data = datasets.mnist("image")
    assert data.train_x.shape == (60000, 1, 28, 28) and data.test_x.shape == (10000, 1, 28, 28)
    assert data.train_y.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert data.test_y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert abs(data.train_x.mean().item()) < 1e-3 and abs(data.train_x.std().item() - 1) < 1e-3


@needs_data
def test_real_fashion_mnist_has_its_published_classes() -> None:
    data = datasets.fashion_mnist()
    assert data.train_x.shape == (60000, 784) and data.test_x.shape == (10000, 784)
    assert data.train_y.bincount().tolist() == [6000] * 10 and data.test_y.bincount().tolist() == [1000] * 10
    assert abs(data.train_x.mean().item()) < 1e-3 and abs(data.train_x.std().item() - 1) < 1e-3


@needs_data
def test_real_cifar10_subset_has_its_published_pixels() -> None:
    pixels = (
        "1a1dabfe5f9e9e17edcf717d9e76be90a44be902bd324c60b4d32667ea2e6a0e",
        "c1e146024dd0e33a14ba5b3b3c72cfeb43fb6c6bd706cfa52bc8366dccb6a9cc",
    )
    classes = (
        [1989, 1981, 2042, 2011, 2009, 1925, 2038, 2027, 2012, 1966],
        [488, 505, 512, 497, 507, 488, 491, 495, 504, 513],
    )
    for file, checksum, counts in zip(datasets._CIFAR10_SUBSET, pixels, classes, strict=True):
        images, labels = cifar10.read_residual(file.find())
        assert sha256(images.tobytes()) == f"sha256:{checksum}"
        assert np.bincount(labels).tolist() == counts
