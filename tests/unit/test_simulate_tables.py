"""Tables of the simulation are FITS as astropy reads and checks it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from astropy.io import fits

from astropt_db.simulate.tables import Field, Table, write_tables


def test_astropy_reads_every_type_and_keyword(tmp_path: Path) -> None:
    values = {
        "long": np.array([1, -(2**63)]),
        "short": np.array([-3, 4], np.int16),
        "wide": np.array([[0.5, np.nan], [2.0, -1.0]], np.float32),
        "double": np.array([np.pi, np.nan]),
        "flag": np.array([True, False]),
        "text": np.array(["a", "it's"]),
    }
    fields = [Field(name, array) for name, array in values.items()]
    fields[0] = Field("long", values["long"], "mag/arcsec2", -(2**63))
    table = Table(fields, "NAMED", {"TILE_INDEX": 102, "SHORT": 7})
    path = write_tables(tmp_path / "a" / "b.fits", [table, table], datetime(2024, 5, 6, tzinfo=UTC))
    with fits.open(path) as hdus:
        assert len(hdus) == 3
        for hdu in hdus:
            hdu.verify("exception")
        assert hdus[0].data is None
        assert hdus[0].header["DATE"] == "2024-05-06T00:00:00"
        header, columns, data = hdus[2].header, hdus[2].columns, hdus[2].data
        assert (header["EXTNAME"], header["TILE_INDEX"], header["SHORT"]) == ("NAMED", 102, 7)
        assert columns.formats == ["K", "I", "2E", "D", "L", "4A"]
        assert (columns[0].unit, columns[0].null, columns[1].unit) == (
            "mag/arcsec2",
            -(2**63),
            None,
        )
        for name, array in values.items():
            np.testing.assert_array_equal(data[name], array)
    assert path.stat().st_size % 2880 == 0
