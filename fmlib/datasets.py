"""Data: two-dimensional toy laws with exact samplers, the 8x8 digits, MNIST, Fashion-MNIST, and folders of images.

A toy law is a function (n, generator=None) -> (n, 2) float tensor, of zero mean and roughly unit scale. The digits
come inside scikit-learn, so the course runs with the network unplugged. What is downloaded is fetched once, checked by
its sha256 and kept in the data cache.
"""

import gzip
import math
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fmlib import _validate
from fmlib.laws import GaussianMixture


def moons(n: int, generator: torch.Generator | None = None, noise: float = 0.05) -> Tensor:
    """Two interleaved half circles of radius 1, scaled by 1.2 and centred, blurred by N(0, noise^2)."""
    _validate.count("n", n)
    angle = math.pi * torch.rand(n, generator=generator)
    lower = torch.rand(n, generator=generator) < 0.5
    x = torch.where(lower, 0.5 - angle.cos(), angle.cos() - 0.5)
    y = torch.where(lower, 0.25 - angle.sin(), angle.sin() - 0.25)
    return 1.2 * torch.stack([x, y], 1) + noise * torch.randn(n, 2, generator=generator)


def eight_gaussians_law(radius: float = 2.0, std: float = 0.2) -> GaussianMixture:
    """Eight equal Gaussians on a circle, as a law with an exact density."""
    angle = torch.arange(8) * math.pi / 4
    return GaussianMixture.isotropic(radius * torch.stack([angle.cos(), angle.sin()], 1), std)


def eight_gaussians(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Samples of `eight_gaussians_law()`."""
    return eight_gaussians_law().sample(n, generator)


def checkerboard(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform on the eight dark squares of a 4x4 board over [-2, 2]^2."""
    _validate.count("n", n)
    column = torch.randint(4, (n,), generator=generator)
    row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
    corner = torch.stack([column, row], 1) - 2
    return corner + torch.rand(n, 2, generator=generator)


def spirals(n: int, generator: torch.Generator | None = None, noise: float = 0.05) -> Tensor:
    """Two spiral arms of one and a half turns, point reflections of each other, blurred by N(0, noise^2)."""
    _validate.count("n", n)
    turn = torch.rand(n, generator=generator).sqrt()  # the square root spreads points evenly along the arms
    sign = torch.where(torch.rand(n, generator=generator) < 0.5, 1.0, -1.0)
    angle = 3 * math.pi * turn
    arm = 2 * turn[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return sign[:, None] * arm + noise * torch.randn(n, 2, generator=generator)


TOYS = {"moons": moons, "eight_gaussians": eight_gaussians, "checkerboard": checkerboard, "spirals": spirals}


class Labelled(NamedTuple):
    """Images, as rows (N, d) or (N, channels, height, width), with values in [-1, 1], float32; labels (N,), int64."""

    x: Tensor
    y: Tensor


def digits(split: str = "train") -> Labelled:
    """Handwritten digits, 8x8 pixels (d = 64), from scikit-learn: 1,437 to train on, 360 held out (every fifth).

    split: 'train', 'test' or 'all'. Pixels 0..16 become -1..1.
    """
    from sklearn.datasets import load_digits

    _validate.choice("split", split, ("train", "test", "all"))
    pixels, classes = load_digits(return_X_y=True)
    x, y = torch.from_numpy(pixels).float() / 8 - 1, torch.from_numpy(classes).long()
    held_out = torch.arange(len(x)) % 5 == 0
    keep = {"train": ~held_out, "test": held_out, "all": torch.ones_like(held_out)}[split]
    return Labelled(x[keep], y[keep])


MIRRORS = {  # by folder of the cache
    "": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "fashion-mnist": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
}
REGISTRY = {
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    "fashion-mnist/train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    "fashion-mnist/train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    "fashion-mnist/t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    "fashion-mnist/t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
}


def cache() -> Path:
    """The folder of downloaded data: FMLIB_DATA_DIR, or else the platform's cache folder of the user."""
    import pooch

    return Path(os.environ.get("FMLIB_DATA_DIR") or pooch.os_cache("fmlib"))


def mnist(split: str = "train") -> Labelled:
    """MNIST, 28x28 pixels (d = 784): 60,000 images in 'train', 10,000 in 'test'. Pixels 0..255 become -1..1.

    Downloaded on first use into `cache()`. Raises OSError if no mirror answers, ValueError if a file is damaged.
    """
    return _images("", split)


def fashion_mnist(split: str = "train") -> Labelled:
    """Fashion-MNIST, articles of clothing in ten classes: sizes, range, download and errors as of `mnist`."""
    return _images("fashion-mnist/", split)


def _images(folder: str, split: str) -> Labelled:
    prefix = folder + {"train": "train", "test": "t10k"}[_validate.choice("split", split, ("train", "test"))]
    images = _idx(fetch(f"{prefix}-images-idx3-ubyte.gz"))
    classes = _idx(fetch(f"{prefix}-labels-idx1-ubyte.gz"))
    return Labelled(images.flatten(1).float() / 127.5 - 1, classes.long())


class Folder(NamedTuple):
    """Images (N, 3, size, size), float32 in [-1, 1], labels (N,), int64, and the names of the classes, if any."""

    x: Tensor
    y: Tensor
    classes: list[str]


MAX_PIXELS = 2**26  # of an image that is decoded whole: 268 MB, as Pillow keeps it, and some copies
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


def folder(path: str | Path, size: int = 32) -> Folder:
    """All images in `path`, in the order of their names: cropped to the middle square, scaled to `size`, in colour.

    If they lie in subfolders, each subfolder is a class; if they lie in `path` itself, there are no classes and the
    labels are zero. size: a multiple of 4. Transparent pixels become white. Links are followed; other files, and hidden
    ones, are passed over. Raises ValueError if there are no images, some above and some in subfolders, none in one
    of the subfolders, or if any cannot be read (counting and naming them): damaged ones; grey of which the range is not
    known, as in most 32-bit and floating formats; more than 67 million pixels, except in a plain JPEG of up to 178.
    """
    import PIL.Image  # noqa: F401 (without Pillow no image could be read)

    root = Path(path)
    if _validate.count("size", size, 4) % 4:
        raise ValueError(f"size must be a multiple of 4, got {size}")
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder")
    files = _images_below(root)
    if not files:
        raise ValueError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))})")
    owners = [file.relative_to(root).parts[0] if file.parent != root else "" for file in files]
    classes = sorted(set(owners))
    if "" in classes and len(classes) > 1:
        raise ValueError(f"{root} holds {owners.count('')} images beside subfolders of images: put them into one too")
    if classes != [""]:
        empty = sorted(f.name for f in root.iterdir() if f.is_dir() and f.name[0] != "." and f.name not in classes)
        if empty:
            raise ValueError(
                f"{root} holds subfolders without images, which cannot be classes: {', '.join(empty[:10])}"
            )
    x, unreadable = torch.empty(len(files), 3, size, size), []
    for i, file in enumerate(files):
        try:
            x[i] = _picture(file, size)
        except Exception as error:  # on bad files Pillow raises whatever its parsers meet: struct.error, TypeError, ...
            reason = f" ({error})" if isinstance(error, _UnfitImage) else ""
            unreadable.append(f"{file.relative_to(root)}{reason}")
    if unreadable:
        more = f" and {len(unreadable) - 10} more" if len(unreadable) > 10 else ""
        names = ", ".join(unreadable[:10]) + more
        raise ValueError(f"{len(unreadable)} of {len(files)} images in {root} cannot be read: {names}")
    y = torch.tensor([classes.index(owner) for owner in owners])
    return Folder(x, y, [] if classes == [""] else classes)


class _UnfitImage(ValueError):
    """An image that Pillow could read, but that would be read wrongly or take too much memory."""


def _picture(file: Path, size: int) -> Tensor:
    """The middle square of one image, (3, size, size), in [-1, 1]."""
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
        try:
            image = Image.open(file)
        except Image.DecompressionBombError:
            raise _UnfitImage(f"more than {MAX_PIXELS} pixels") from None
    with image:
        if image.width * image.height > MAX_PIXELS and not image.info.get("progressive"):
            image.draft(
                None, (4 * size, 4 * size)
            )  # a JPEG can be scaled down while it is read; others stay as they are
        if image.width * image.height > MAX_PIXELS:
            raise _UnfitImage(f"{image.width} x {image.height}, more than {MAX_PIXELS} pixels")
        if image.mode[0] in "IF":
            if not _has_16_bits(image):
                raise _UnfitImage(f"mode {image.mode}, whose range is not known")
            image = image.convert("I").point(lambda value: value / 257).convert("L")  # `convert` alone would clip to 8
        ImageOps.exif_transpose(image, in_place=True)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
    pixels = torch.frombuffer(bytearray(square.tobytes()), dtype=torch.uint8).reshape(size, size, 3)
    return pixels.permute(2, 0, 1) / 127.5 - 1


def _has_16_bits(image) -> bool:
    """Whether grey from 0 (black) to 65535 is known: not so for 12 bits, signed, 32-bit or floating pixels."""
    if image.format == "PNG":  # where older versions of Pillow call it I
        return image.mode != "F"
    tags = getattr(image, "tag_v2", {})  # of a TIFF: bits, and whether 0 is black
    return image.mode.startswith("I;16") and tags.get(258, (16,))[0] == 16 and tags.get(262, 1) == 1


def _images_below(root: Path) -> list[Path]:
    """The files that look like images, sorted; OSError for a subfolder that may not be read."""

    def refuse(error: OSError):
        raise error

    found = []
    for above, folders, names in os.walk(root, followlinks=True, onerror=refuse):
        inside = [folder for folder in Path(above).parents if folder == root or root in folder.parents]
        if any(os.path.samefile(above, folder) for folder in inside):  # a link back up: a circle
            folders.clear()
            continue
        folders[:] = [name for name in folders if name[0] != "."]
        files = [Path(above, name) for name in names if name[0] != "."]
        found += [file for file in files if file.suffix.lower() in SUFFIXES and file.is_file()]
    return sorted(found)


def fetch(name: str) -> Path:
    """Return the path of the file `name` in the cache, downloading it from the first mirror that has it whole.

    A file is stored under its name only once its sha256 is right; a damaged cached file is reported, not read.
    """
    import pooch

    digest = REGISTRY[_validate.choice("file", name, REGISTRY)]
    path = cache() / name
    if path.exists():
        if pooch.file_hash(str(path)) != digest:
            raise ValueError(f"{path} is damaged (its sha256 is not the published one): delete it to fetch it again")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError("it is read-only")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        hint = "set the environment variable FMLIB_DATA_DIR to a folder that you can write"
        raise OSError(f"the data cache {path.parent} cannot be written ({reason}): {hint}") from None
    reasons = []
    above, _, bare = name.rpartition("/")
    for mirror in MIRRORS[above]:
        try:
            pooch.retrieve(mirror + bare, digest, fname=bare, path=path.parent, progressbar=True)
            return path
        except (OSError, ValueError) as error:
            reasons.append(f"{mirror}: {type(error).__name__} {' '.join(str(error).split())[:160]}")
    raise OSError(f"could not download {name}; {'; '.join(reasons)}; or put the file into {path.parent}")


def _idx(path: Path) -> Tensor:
    """Read an IDX file of bytes: two zero bytes, the type 8, the number of axes, each axis as 4 bytes, the values."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of bytes")
    shape = [int.from_bytes(content[4 + 4 * i : 8 + 4 * i], "big") for i in range(content[3])]
    values = torch.frombuffer(bytearray(content[4 + 4 * len(shape) :]), dtype=torch.uint8)
    if len(values) != math.prod(shape):
        raise ValueError(f"{path} holds {len(values)} values, but its header says {math.prod(shape)}")
    return values.reshape(shape)
