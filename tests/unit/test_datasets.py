import gzip
import hashlib
import math
import os
import struct
import zlib
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pooch
import pytest
import torch
from helpers import F64, SHARED_DATA, normal, one_sentence, seeded
from PIL import Image
from scipy.integrate import quad
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from fmlib import datasets

NOISE = 0.05


def average(function, density=lambda u: 1.0):
    return quad(lambda u: function(u) * density(u), 0, 1)[0]


def moons_covariance():
    """A half circle in the frame of its centre and its point reflection: both have the products below."""
    x, y = (lambda u: math.cos(math.pi * u) - 0.5), (lambda u: math.sin(math.pi * u) - 0.25)
    xx, yy, xy = (1.44 * average(lambda u, f=f, g=g: f(u) * g(u)) for f, g in [(x, x), (y, y), (x, y)])
    return [[xx + NOISE**2, xy], [xy, yy + NOISE**2]]


def spirals_covariance():
    """Radius 2 r at angle 3 pi r, where r has density 2 r; the sign cancels in every product."""
    x, y = (lambda r: 2 * r * math.cos(3 * math.pi * r)), (lambda r: 2 * r * math.sin(3 * math.pi * r))
    xx, yy, xy = (average(lambda r, f=f, g=g: f(r) * g(r), lambda r: 2 * r) for f, g in [(x, x), (y, y), (x, y)])
    return [[xx + NOISE**2, xy], [xy, yy + NOISE**2]]


# Each side of the board is uniform on [-2, 2]; a quarter of covariance comes from the squares' shift by column.
COVARIANCES = {
    "moons": moons_covariance(),
    "eight_gaussians": [[2.04, 0.0], [0.0, 2.04]],
    "checkerboard": [[4 / 3, 0.25], [0.25, 4 / 3]],
    "spirals": spirals_covariance(),
}
every_toy = pytest.mark.parametrize("name", datasets.TOYS)


@every_toy
def test_mean_and_covariance(name):
    n = 100_000
    x = datasets.TOYS[name](n, seeded()).double()
    products = torch.stack([x[:, 0] ** 2, x[:, 0] * x[:, 1], x[:, 1] ** 2], 1)
    (xx, xy), (_, yy) = COVARIANCES[name]
    for measured, expected in [(x, [0, 0]), (products, [xx, xy, yy])]:
        gap = (measured.mean(0) - torch.tensor(expected, dtype=F64)).abs()
        assert (gap < 4 * measured.std(0) / math.sqrt(n)).all()


@every_toy
def test_draws_repeat_under_a_generator_and_leave_the_global_one_alone(name):
    draw, before = datasets.TOYS[name], torch.get_rng_state()
    assert torch.equal(draw(50, seeded(3)), draw(50, seeded(3)))
    assert not torch.equal(draw(50, seeded(3)), draw(50, seeded(4)))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(draw(50), draw(50))
    assert draw(50).shape == (50, 2) and draw(1).dtype == torch.float32


@every_toy
@pytest.mark.parametrize("n, kind", [(0, ValueError), (-5, ValueError), (2.5, TypeError), (True, TypeError)])
def test_bad_counts(name, n, kind):
    with pytest.raises(kind, match=f"n must be .* {n}") as error:
        datasets.TOYS[name](n)
    assert one_sentence(error)


def test_checkerboard_never_leaves_the_dark_squares_and_fills_them_evenly():
    squares = datasets.checkerboard(40_000, seeded()).floor().int().tolist()
    counts = Counter(map(tuple, squares))
    assert len(counts) == 8 and all((x + y) % 2 == 0 and -2 <= x < 2 and -2 <= y < 2 for x, y in counts)
    assert max(abs(count - 5000) for count in counts.values()) < 4.5 * math.sqrt(40_000 * 7 / 64)


@pytest.mark.parametrize("name", ["moons", "spirals"])
def test_without_noise_points_lie_on_the_curves(name):
    x = datasets.TOYS[name](500, seeded(), noise=0.0).double()
    if name == "moons":
        centres = torch.tensor([[-0.6, -0.3], [0.6, 0.3]], dtype=F64)
        apart = ((x[:, None] - centres).norm(dim=2) - 1.2).abs().amin(1)
    else:
        radius = x.norm(dim=1)
        angle = 3 * math.pi * radius / 2
        arm = radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
        apart = torch.minimum((x - arm).norm(dim=1), (x + arm).norm(dim=1))
    assert apart.max() < 1e-5


def test_eight_gaussians_law_is_its_density():
    angle = torch.arange(8, dtype=F64) * math.pi / 4
    centres = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    components = MultivariateNormal(centres, 0.04 * torch.eye(2, dtype=F64).expand(8, 2, 2))
    expected = MixtureSameFamily(Categorical(torch.ones(8, dtype=F64)), components)
    x = 2 * normal(200, 2)
    ours = datasets.eight_gaussians_law().log_density(x)
    torch.testing.assert_close(ours, expected.log_prob(x), rtol=1e-4, atol=1e-4)


# Digits


def test_digits_are_those_of_scikit_learn_split_without_overlap():
    from sklearn.datasets import load_digits

    pixels, classes = load_digits(return_X_y=True)
    train, test, both = (datasets.digits(split) for split in ("train", "test", "all"))
    assert [len(part.x) for part in (train, test, both)] == [1437, 360, 1797] == [len(p.y) for p in (train, test, both)]
    assert torch.equal(both.x, torch.tensor(pixels / 8 - 1, dtype=torch.float32))
    assert both.y.tolist() == classes.tolist() and both.y.dtype == torch.int64
    held_out = torch.zeros(1797, dtype=torch.bool)
    held_out[::5] = True
    for part, rows in [(test, held_out), (train, ~held_out)]:
        assert torch.equal(part.x, both.x[rows]) and torch.equal(part.y, both.y[rows])
        assert part.x.min() == -1 and part.x.max() == 1 and part.y.unique().tolist() == list(range(10))
    assert not set(map(tuple, train.x.tolist())) & set(map(tuple, test.x.tolist()))


@pytest.mark.parametrize(
    "ask, message",
    [
        (lambda: datasets.digits("valid"), "unknown split 'valid'; known: train, test, all"),
        (lambda: datasets.mnist("all"), "unknown split 'all'; known: train, test"),
        (lambda: datasets.fetch("../secret"), "unknown file '../secret'; known: train-images-idx3-ubyte.gz, "),
    ],
    ids=["digits", "mnist", "fetch"],
)
def test_unknown_names_list_the_known(ask, message):
    with pytest.raises(ValueError, match=message) as error:
        ask()
    assert one_sentence(error)


# MNIST

LABELS = "t10k-labels-idx1-ubyte.gz"


def test_mnist_from_the_data_folder(monkeypatch):
    if not (SHARED_DATA / LABELS).exists():
        pytest.skip("no ../shared/data with MNIST beside the checkout")
    monkeypatch.setenv("FMLIB_DATA_DIR", str(SHARED_DATA))
    x, y = datasets.mnist("test")
    assert x.shape == (10_000, 784) and x.dtype == torch.float32 and y.dtype == torch.int64
    assert y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert x.min() == -1 and x.max() == 1
    assert ((x.mean() + 1) / 2).item() == pytest.approx(0.1325, abs=1e-4)  # the known mean brightness of the test set
    assert y[:5].tolist() == [7, 2, 1, 0, 4]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty data cache."""
    monkeypatch.setenv("FMLIB_DATA_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def idx(values: torch.Tensor) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
    return gzip.compress(header + values.numpy().tobytes())


def test_the_cache_is_the_data_folder_or_the_users(folder, monkeypatch):
    assert datasets.cache() == folder
    for value in ("", None):
        monkeypatch.setenv("FMLIB_DATA_DIR", value) if value is not None else monkeypatch.delenv("FMLIB_DATA_DIR")
        assert str(datasets.cache()) == str(pooch.os_cache("fmlib"))


def test_a_damaged_file_is_reported_and_neither_read_nor_fetched(folder, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("read or fetched")

    monkeypatch.setattr(datasets.gzip, "decompress", never)
    monkeypatch.setattr(pooch, "retrieve", never)
    folder.mkdir()
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"half a file")
    with pytest.raises(ValueError, match="t10k-images.*is damaged .*: delete it to fetch it again") as error:
        datasets.mnist("test")
    assert one_sentence(error) and str(folder) in str(error.value)
    assert (folder / "t10k-images-idx3-ubyte.gz").read_bytes() == b"half a file"


@pytest.mark.parametrize("failure", [ConnectionError("no route\nto host"), TimeoutError(), ValueError("bad hash")])
def test_no_mirror_answering_says_what_to_do(failure, folder, monkeypatch):
    tried = []

    def fail(url, *args, **kwargs):
        tried.append(url)
        raise failure

    monkeypatch.setattr(pooch, "retrieve", fail)
    with pytest.raises(OSError, match=f"could not download {LABELS}; .*or put the file into {folder}") as error:
        datasets.fetch(LABELS)
    assert tried == [mirror + LABELS for mirror in datasets.MIRRORS[""]] and len(tried) >= 2
    assert one_sentence(error) and all(mirror in str(error.value) for mirror in datasets.MIRRORS[""])
    assert type(failure).__name__ in str(error.value)


class Mirror(BaseHTTPRequestHandler):
    """A web server on this machine: /whole/ answers truly, /cut/ ends in the middle, /wrong/ sends other bytes."""

    def __init__(self, files, *args):
        self.files = files
        super().__init__(*args)

    def do_GET(self):
        kind, name = self.path.strip("/").split("/")
        content = self.files[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        sent = {"whole": content, "cut": content[: len(content) // 2], "wrong": content[::-1]}[kind]
        self.wfile.write(sent)

    def log_message(self, *args):
        pass


@pytest.fixture
def mirrors(folder, monkeypatch):
    """Two small files in the place of MNIST's test set, served by this machine; a function chooses the mirrors."""
    images = torch.randint(256, (5, 28, 28), dtype=torch.uint8)
    labels = torch.tensor([3, 1, 4, 1, 5], dtype=torch.uint8)
    files = {"t10k-images-idx3-ubyte.gz": idx(images), LABELS: idx(labels)}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digests |= {f"fashion-mnist/{name}": digest for name, digest in digests.items()}
    monkeypatch.setattr(datasets, "REGISTRY", digests)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Mirror, files))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()

    def use(*kinds):
        address = f"http://127.0.0.1:{server.server_port}"
        addresses = tuple(f"{address}/{kind}/" for kind in kinds)
        monkeypatch.setattr(datasets, "MIRRORS", {"": addresses, "fashion-mnist": addresses})
        return images, labels

    yield use
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("load, inside", [(datasets.mnist, ""), (datasets.fashion_mnist, "fashion-mnist")])
@pytest.mark.parametrize("first", ["whole", "cut", "wrong"])
def test_a_download_is_checked_and_the_next_mirror_asked(first, load, inside, mirrors, folder, monkeypatch):
    images, labels = mirrors(first, "whole")
    x, y = load("test")
    torch.testing.assert_close(x, images.flatten(1) / 127.5 - 1)
    assert y.tolist() == labels.tolist() and x.shape == (5, 784)
    monkeypatch.setattr(pooch, "retrieve", None)  # from now on from the cache
    assert torch.equal(load("test").x, x) and (folder / inside / LABELS).exists()


@pytest.mark.parametrize("kind", ["cut", "wrong"])
def test_a_broken_download_is_reported_and_not_kept(kind, mirrors, folder):
    mirrors(kind)
    with pytest.raises(OSError, match=f"could not download {LABELS}") as error:
        datasets.fetch(LABELS)
    assert one_sentence(error) and os.listdir(folder) == []


def test_a_cache_that_cannot_be_written_is_said_and_no_mirror_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(pooch, "retrieve", None)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMLIB_DATA_DIR", str(tmp_path / "file"))  # no folder
    with pytest.raises(
        OSError, match=r"the data cache .*file cannot be written \(.*exists\): set .* FMLIB_DATA_DIR"
    ) as error:
        datasets.mnist()
    assert one_sentence(error)
    monkeypatch.setenv("FMLIB_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (tmp_path, os.W_OK))
    with pytest.raises(OSError, match=r"the data cache .* cannot be written \(it is read-only\): set") as error:
        datasets.mnist()
    assert one_sentence(error)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"\0\0\x0d\x01\0\0\0\x01\0", "is not an IDX file of bytes"),
        (b"\0\0\x08\x01\0\0\0\x07\x01", "1 values, .* says 7"),
    ],
)
def test_a_file_of_another_format(content, message, tmp_path):
    (tmp_path / "file.gz").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=f"file.gz .*{message}"):
        datasets._idx(tmp_path / "file.gz")


# Folders of images


@pytest.fixture
def pictures(tmp_path):
    """Two classes of coloured squares, a file that is no image, and one that only looks like one."""
    for name, colour in [("red", (255, 0, 0)), ("blue", (0, 0, 255))]:
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (40 + 8 * i, 40), colour).save(tmp_path / "data" / name / f"{i}.png")
    (tmp_path / "data" / "red" / "notes.txt").write_text("not an image")
    return tmp_path / "data"


def test_subfolders_are_classes(pictures):
    x, y, classes = datasets.folder(pictures)
    assert classes == ["blue", "red"] and y.tolist() == [0, 0, 0, 1, 1, 1] and x.shape == (6, 3, 32, 32)
    blue, red = torch.tensor([-1.0, -1.0, 1.0]), torch.tensor([1.0, -1.0, -1.0])
    assert (x[:3] == blue[:, None, None]).all() and (x[3:] == red[:, None, None]).all() and x.dtype == torch.float32


def test_a_flat_folder_has_no_classes_and_images_are_cropped_to_the_middle(tmp_path):
    wide = torch.zeros(8, 16, 3, dtype=torch.uint8)
    wide[:, 4:12] = 255  # the middle square is white
    Image.fromarray(wide.numpy()).save(tmp_path / "wide.bmp")
    x, y, classes = datasets.folder(tmp_path, size=8)
    assert classes == [] and y.tolist() == [0] and (x == 1).all()


def test_transparent_grey_and_palette_images_become_colour(tmp_path):
    for mode in ("L", "P", "RGBA", "CMYK", "1", "I;16"):
        Image.new(mode, (32, 32)).save(tmp_path / f"{mode[0]}{len(mode)}.tiff")
    assert datasets.folder(tmp_path).x.isfinite().all() and len(datasets.folder(tmp_path).x) == 6


def test_what_is_transparent_becomes_white(tmp_path):
    icon = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    icon.paste((0, 0, 0, 255), (16, 0, 32, 32))
    icon.save(tmp_path / "a.png")
    icon.quantize(4).save(tmp_path / "b.png")
    x = datasets.folder(tmp_path).x
    assert (x[..., :12] == 1).all() and (x[..., 20:] == -1).all()


def test_links_are_followed_and_circles_left(pictures, tmp_path):
    (pictures / "again").symlink_to(pictures / "red")
    (pictures / "red" / "up").symlink_to(pictures)
    found = datasets.folder(pictures)
    assert found.classes == ["again", "blue", "red"] and found.y.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_class_without_images_is_named(pictures):
    (pictures / "green").mkdir()
    (pictures / ".hidden").mkdir()
    with pytest.raises(ValueError, match="subfolders without images, which cannot be classes: green$") as error:
        datasets.folder(pictures)
    assert one_sentence(error)


def test_photos_stand_upright_and_deep_greys_keep_their_range(tmp_path):
    half = torch.zeros(32, 32, 3, dtype=torch.uint8)
    half[:16] = 255
    turned = Image.Exif()
    turned[0x0112] = 6  # shown after a quarter turn clockwise: the top half comes to the right
    Image.fromarray(half.numpy()).save(tmp_path / "a.png", exif=turned)
    ramp = (torch.arange(32 * 32).reshape(32, 32) * 64).to(torch.int32).numpy().astype("uint16")
    Image.fromarray(ramp).save(tmp_path / "b.png")
    x = datasets.folder(tmp_path).x
    assert (x[0, :, :, 17:] > 0.9).all() and (x[0, :, :, :15] < -0.9).all()
    torch.testing.assert_close(x[1, 0], torch.from_numpy(ramp.astype("float32")) / 32767.5 - 1, atol=0.01, rtol=0)
    Image.new("F", (8, 8), 0.5).save(tmp_path / "c.tiff")
    with pytest.raises(ValueError, match="1 of 3 images .* cannot be read: c.tiff"):
        datasets.folder(tmp_path)
    (tmp_path / "c.tiff").unlink()
    (tmp_path / ".trash").mkdir()
    (tmp_path / ".trash" / "d.png").touch()
    assert len(datasets.folder(tmp_path).x) == 2


def tiff(bits: int, kind: int, photometric: int, value: int, side: int = 16) -> bytes:
    """A plain grey TIFF, written by hand: kind 1 unsigned, 2 signed, 3 floating; photometric 1 if 0 is black."""
    pixels = (value.to_bytes(bits // 8, "little") if bits != 12 else b"\xff\xff\xff") * side * side
    tags = [(256, side), (257, side), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, side)]
    tags += [(279, len(pixels)), (339, kind)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, number) for tag, number in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + b"\0" * 4


@pytest.mark.parametrize(
    "picture",
    [(32, 1, 1, 200), (32, 2, 1, 2**31 - 1), (16, 2, 1, 200), (32, 3, 1, 0), (12, 1, 1, 4095), (16, 1, 0, 100)],
    ids=["32 bits", "32 bits, signed", "16 bits, signed", "floating", "12 bits", "16 bits, 0 is white"],
)
def test_grey_of_unknown_range_is_refused(picture, tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(*picture))
    with pytest.raises(ValueError, match=r"1 of 1 images .* a.tif \(mode .*, whose range is not known\)$") as error:
        datasets.folder(tmp_path)
    assert one_sentence(error)


def test_grey_of_16_bits_runs_from_black_to_white(tmp_path):
    for value in (0, 13107, 65535):  # 0, one fifth, all
        (tmp_path / f"{value:05d}.tif").write_bytes(tiff(16, 1, 1, value))
        Image.new("I;16", (16, 16), value).save(tmp_path / f"{value:05d}.png")
    x = datasets.folder(tmp_path).x.amax((1, 2, 3))
    torch.testing.assert_close(x, torch.tensor([-1.0, -1.0, -0.6, -0.6, 1.0, 1.0]))


TURNED = (0x0112, 3, 1, struct.pack("<HH", 6, 0))
CORRUPT = {  # what Pillow raises: struct.error, TypeError, AttributeError, ValueError
    "bits that are no integers": (258, 7, 4, b"\x1a\0\0\0"),
    "bytes for a resolution": (282, 1, 1, b"\xce\xfe\xf3m"),
    "numbers for a name": (272, 11, 2, b"\x1a\0\0\0"),
    "fractions for bytes": (700, 10, 4, b"\x08\0\0\0"),
}


@pytest.mark.parametrize("entry", CORRUPT.values(), ids=CORRUPT)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_with_corrupt_exif_is_named(entry, suffix, pictures):
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in sorted([TURNED, entry]))
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0" * 4 + b"\1\2\3\4" * 4
    Image.new("RGB", (16, 16)).save(pictures / "red" / f"exif.{suffix}", exif=exif)
    with pytest.raises(ValueError, match=rf"1 of 7 images .* cannot be read: red/exif.{suffix}$") as error:
        datasets.folder(pictures)
    assert one_sentence(error)


def test_an_image_that_would_expand_is_refused_by_its_header(pictures):
    """Nothing but a header: if it were decoded, it would be found to be cut off and named without a reason."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    for name, side in [
        ("large", 9_000),
        ("huge", 12_000),
        ("vast", 50_000),
    ]:  # from 90 million Pillow warns, then raises
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        (pictures / "red" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b""))
    message = (
        r"3 of 9 images .* red/huge.png \(12000 x 12000, more than 67108864 pixels\), red/large.png \(9000 x .*vast"
    )
    with pytest.raises(ValueError, match=message) as error:
        datasets.folder(pictures)
    assert one_sentence(error)


def test_a_large_photo_is_scaled_down_while_it_is_read(tmp_path, monkeypatch):
    ramp = (torch.arange(400.0)[:, None] + torch.arange(400.0)).mul(255 / 798).round().byte().numpy()
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "a.jpg", quality=95)
    whole = datasets.folder(tmp_path, 16).x
    monkeypatch.setattr(datasets, "MAX_PIXELS", 20_000)
    scaled = datasets.folder(tmp_path, 16).x
    assert not torch.equal(scaled, whole)
    torch.testing.assert_close(scaled, whole, rtol=0, atol=0.02)
    for name, options in [("b.png", {}), ("c.jpg", {"progressive": True})]:  # these must be decoded whole
        Image.fromarray(ramp).save(tmp_path / name, **options)
    with pytest.raises(ValueError, match=r"2 of 3 images .*: b.png \(400 x 400, more than 20000 pixels\), c.jpg \(400"):
        datasets.folder(tmp_path, 16)


def test_unreadable_images_are_counted_and_named(pictures):
    (pictures / "red" / "broken.png").write_bytes(b"no picture")
    (pictures / "blue" / "cut.jpg").write_bytes((pictures / "blue" / "0.png").read_bytes()[:60])
    message = r"2 of 8 images in .* cannot be read: blue/cut.jpg, red/broken.png$"
    with pytest.raises(ValueError, match=message) as error:
        datasets.folder(pictures)
    assert one_sentence(error)
    for i in range(20):
        (pictures / "red" / f"x{i:02d}.png").touch()
    with pytest.raises(ValueError, match=r"22 of 28 images .*: blue/cut.jpg, red/broken.png, .*x07.png and 12 more$"):
        datasets.folder(pictures)


def test_folders_that_hold_no_data_set(pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    Image.new("L", (8, 8)).save(pictures / "stray.png")
    for path, size, message in [
        (tmp_path / "nowhere", 32, "nowhere is not a folder"),
        (tmp_path / "empty", 32, "empty holds no images"),
        (pictures, 32, "holds 1 images beside subfolders"),
        (pictures, 30, "size must be a multiple of 4, got 30"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            datasets.folder(path, size)
        assert one_sentence(error)
