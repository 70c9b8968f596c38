"""Numbers and names as people read them."""

LONGEST_TEXT = 400  # characters


def number(value: float) -> str:
    """Write three significant digits."""
    return f"{value:.3g}" if abs(value) < 1000 else thousands(value)


def thousands(value: float) -> str:
    """Write 1200 as 1.2k, 128000 as 128k, 1200000 as 1.2M."""
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{sign}"
    return f"{value:.4g}"


def percent(value: float, decimals: int = 1) -> str:
    """Write 0.8125 as 81.2%."""
    return f"{100 * value:.{decimals}f}%"


def whole_percent(value: float) -> str:
    """Write 0.75 as 75%."""
    return percent(value, 0)


def in_percent(value: float) -> str:
    """Write 0.8125 as 81.2, for columns of percents."""
    return f"{100 * value:.1f}"


def score(value: float) -> str:
    """Write 0.8125 as 0.812: three decimals."""
    return f"{value:.3f}"


def interval(low: float, high: float) -> str:
    """Write two shares as 79.0–83.4, in percent."""
    return f"{100 * low:.1f}–{100 * high:.1f}"


def short(text: str, longest: int = LONGEST_TEXT) -> str:
    """Cut text after `longest` characters, with a mark."""
    return text if len(text) <= longest else text[: longest - 1].rstrip() + "…"


def count(value: float) -> str:
    """Write 12345 as 12,345."""
    return f"{value:,.0f}"


def data_size(num_bytes: float) -> str:
    """Write 1024 as 1 KiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if num_bytes < 1024 or unit == "GiB":
            break
        num_bytes /= 1024
    return f"{num_bytes:.3g} {unit}" if num_bytes < 1000 else f"{num_bytes:.0f} {unit}"


def operations(number: float) -> str:
    """Write 28400000 as 28.4 million."""
    for size, name in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return count(number)


def plain(name: str) -> str:
    """Write `replace_object` as replace object."""
    return name.replace("_", " ")
