from __future__ import annotations

import pytest

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

from msformer_deploy.service.answers import accepted
from msformer_deploy.service.refused import Refused


@pytest.mark.parametrize(
    ("header", "media_type", "view"),
    [
        (None, "image/png", None),
        ("*/*", "image/png", None),
        ("image/*", "image/png", None),
        ("image/png;view=overlay", "image/png", "overlay"),
        ("image/png; view=overlay, */*;q=0.1", "image/png", "overlay"),
        ("IMAGE/PNG", "image/png", None),
        ("application/*", "application/dicom", None),
        ("image/png;q=0.5, application/json", "application/json", None),
        ("text/html, application/json;q=0.2", "application/json", None),
        ("image/png;q=0, application/json;q=0.1", "application/json", None),
        ("application/dicom", "application/dicom", None),
    ],
)
def test_the_answer_that_a_client_likes_best(header: str | None, media_type: str, view: str | None) -> None:
    found = accepted(header)
    assert (found.media_type, found.view) == (media_type, view)


@pytest.mark.parametrize("header", ["text/html", "image/jpeg", "image/png;q=0", "image/png;q=x", "image/png;view=x"])
def test_nothing_that_is_accepted(header: str) -> None:
    with pytest.raises(Refused) as refused:
        accepted(header)
    assert refused.value.status == 406
    assert "image/png;view=overlay" in str(refused.value)
