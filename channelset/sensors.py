"""List the bands of common sensors: names, centre wavelengths and bandwidths in nm.

    adapt_first_conv(net, channels=sensor("sentinel-2"), init="wavelength", trained_on=RGB)
    net(x, channels=sensor("landsat-8").chosen(range(1, 7)).wavelengths)

A wavelength within half a band's bandwidth means this band. So the wavelengths of one sensor select the bands of
another.

Sources (numbers are rounded):
sentinel-2    ESA, Sentinel-2 User Handbook, nominal values of MSI; each satellite differs by a few nm
landsat-8     USGS, Landsat 8 Data Users Handbook (LSDS-1574), OLI and TIRS; middle and width of each band.
              Landsat 9 has the same bands
hls           NASA, HLS products L30 and S30: bands of the surface in both products, with OLI's spectral response
planetscope   Planet, band ranges of the 8-band asset (SuperDove)
naip          Leica ADS100, the camera of many NAIP flights; other contractors' cameras differ by some 20 nm
"""

from __future__ import annotations

from collections.abc import Mapping

from .names import Channels

RGB = {"R": 665.0, "G": 560.0, "B": 490.0}  # approximate, for photographs


def _ranges(bands: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Convert (shortest, longest wavelength) of each band to (middle, width)."""
    return {name: ((low + high) / 2, high - low) for name, (low, high) in bands.items()}


OLI = _ranges(
    {
        "B1": (435, 451),
        "B2": (452, 512),
        "B3": (533, 590),
        "B4": (636, 673),
        "B5": (851, 879),
        "B6": (1566, 1651),
        "B7": (2107, 2294),
        "B8": (503, 676),
        "B9": (1363, 1384),
        "B10": (10600, 11190),
        "B11": (11500, 12510),
    }
)
HLS = ("coastal_aerosol", "blue", "green", "red", "nir_narrow", "swir_1", "swir_2")
SENSORS: dict[str, dict[str, tuple[float, float]]] = {
    "sentinel-2": {
        "B01": (443, 20),
        "B02": (490, 65),
        "B03": (560, 35),
        "B04": (665, 30),
        "B05": (705, 15),
        "B06": (740, 15),
        "B07": (783, 20),
        "B08": (842, 115),
        "B8A": (865, 20),
        "B09": (945, 20),
        "B10": (1375, 30),
        "B11": (1610, 90),
        "B12": (2190, 180),
    },
    "landsat-8": OLI,
    "landsat-9": OLI,
    "hls": dict(zip(HLS, OLI.values())),  # OLI's first seven bands
    "planetscope": _ranges(
        {
            "coastal_blue": (431, 452),
            "blue": (465, 515),
            "green_i": (513, 549),
            "green": (547, 583),
            "yellow": (600, 620),
            "red": (650, 680),
            "rededge": (697, 713),
            "nir": (845, 885),
        }
    ),
    "naip": _ranges({"R": (619, 651), "G": (525, 585), "B": (435, 495), "N": (808, 882)}),
}


def sensor(name: str) -> Channels:
    """Return the bands of a sensor, a key of `SENSORS`, in the order of its products.

    Raises:
        ValueError: there is no such sensor; the message names all sensors.
    """
    if name not in SENSORS:
        raise ValueError(f"no sensor {name!r}; there are {', '.join(sorted(SENSORS))}")
    return Channels(SENSORS[name])
