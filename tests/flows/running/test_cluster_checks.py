import socket
import tempfile
from pathlib import Path

import pytest

from flows.running.cluster import check_address, check_temporary_folder


@pytest.mark.parametrize(
    "address", ["127.0.0.1:{port}", "ray://127.0.0.1:{port}", "[::1]:{port}", "127.0.0.1:99999"]
)
def test_an_address_where_nobody_listens_is_refused_at_once(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(f"127.0.0.1:{port}")
    with pytest.raises(ValueError, match="nobody answers there"):
        check_address(address.format(port=port))


def test_a_folder_that_is_too_long_or_not_ours_is_refused_with_the_way_out(tmp_path: Path) -> None:
    check_temporary_folder(tempfile.gettempdir())
    with pytest.raises(ValueError, match="set RAY_TMPDIR"):
        check_temporary_folder(str(tmp_path / ("x" * 60)))
