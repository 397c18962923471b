"""Hashes of bodies, and derived request ids."""

from __future__ import annotations

import uuid

from poundcake.request_ids import body_sha256, collision_id, replay_id

ID = str(uuid.UUID(int=7))


def test_any_text_can_be_hashed():
    assert body_sha256("a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert len({body_sha256(text) for text in ("", "a", "\ud800", "?")}) == 4


def test_derived_ids_differ_by_kind_request_and_discriminator():
    derived_ids = [
        derive_id(request_id, discriminator)
        for derive_id in (collision_id, replay_id)
        for request_id in (ID, str(uuid.UUID(int=8)))
        for discriminator in ("a", "b")
    ]
    assert len(set(derived_ids)) == 8
    assert all(str(uuid.UUID(derived_id)) == derived_id for derived_id in derived_ids)
    assert collision_id(ID, "a") == derived_ids[0]
