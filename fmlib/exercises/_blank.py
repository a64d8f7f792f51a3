"""The blank `____` that a learner replaces: it survives nearly everything, so that half-filled code still runs."""

import torch


class Blank:
    """Stands for what is still missing. Whatever is done with it gives a blank again, and is counted in `uses`."""

    uses = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.uses += 1
        return ____

    def __getattr__(self, name: str):
        if name.startswith("_"):  # what Python, copy, pickle and IPython look for must stay missing
            raise AttributeError(name)
        return self._used()

    def _used(self, *args, **kwargs):
        Blank.uses += 1
        return self

    # These must return what Python expects of them.
    def __bool__(self) -> bool:
        return self._used() is self

    def __float__(self) -> float:
        return self._used() and float("nan")

    def __complex__(self) -> complex:
        return complex(float(self))

    def __index__(self) -> int:
        self._used()
        return 0

    def __len__(self) -> int:
        return self.__index__()

    def __contains__(self, item) -> bool:
        return not self._used()

    def __iter__(self):
        self._used()
        return iter(())

    def __format__(self, spec: str) -> str:
        return "____"

    def __repr__(self) -> str:
        return "____"

    __int__ = __trunc__ = __index__
    __hash__ = object.__hash__


_ARITHMETIC = "add sub mul truediv floordiv mod divmod pow matmul lshift rshift and or xor"
_OTHERS = "eq ne lt le gt ge neg pos abs invert round floor ceil call getitem setitem array_ufunc array_function"
_NAMES = [prefix + name for name in _ARITHMETIC.split() for prefix in ("", "r")] + _OTHERS.split()
for _name in _NAMES:
    setattr(Blank, f"__{_name}__", Blank._used)

____ = Blank()


def holds_blank(value) -> bool:
    """Is a blank left in `value`, or in a list, tuple or dictionary of them?"""
    if isinstance(value, (list, tuple)):
        return any(holds_blank(item) for item in value)
    if isinstance(value, dict):
        return any(holds_blank(item) for item in value.values())
    return isinstance(value, Blank) or (isinstance(value, str) and value.strip() == "____")


def is_tensor(value) -> bool:
    """Is `value` a tensor? (A blank is not, although PyTorch asks it first.)"""
    return isinstance(value, torch.Tensor)
