"""An effect is claimed by one owner at a time, done once, and forgotten after its time."""

from __future__ import annotations

import pytest

from pythia.broker import Claim
from tests.conformance.rigs import requires


@pytest.fixture
def effects(broker):
    requires(broker, "idempotency")
    return broker.idempotency()


async def test_the_first_claim_is_ours_and_may_be_repeated_by_its_owner(effects):
    assert await effects.claim("k", "a", 60.0) is Claim.OURS
    assert await effects.claim("k", "a", 60.0) is Claim.OURS


async def test_a_claim_of_another_is_busy(effects):
    await effects.claim("k", "a", 60.0)
    assert await effects.claim("k", "b", 60.0) is Claim.BUSY
    assert await effects.claim("other", "b", 60.0) is Claim.OURS


async def test_what_is_done_is_done_for_everybody(effects):
    await effects.claim("k", "a", 60.0)
    assert await effects.done("k", "a", 3600.0) is True
    assert await effects.claim("k", "b", 60.0) is Claim.DONE
    assert await effects.claim("k", "a", 60.0) is Claim.DONE


async def test_a_released_claim_is_free(effects):
    await effects.claim("k", "a", 60.0)
    await effects.release("k", "a")
    assert await effects.claim("k", "b", 60.0) is Claim.OURS


async def test_nobody_releases_what_is_anothers_or_done(effects):
    await effects.claim("k", "a", 60.0)
    await effects.release("k", "b")
    assert await effects.claim("k", "b", 60.0) is Claim.BUSY
    await effects.done("k", "a", 60.0)
    await effects.release("k", "a")
    assert await effects.claim("k", "b", 60.0) is Claim.DONE


async def test_a_claim_ends_with_its_time(rig, effects):
    await effects.claim("k", "a", rig.delay)
    await rig.advance(rig.delay + 0.1)
    assert await effects.claim("k", "b", rig.delay) is Claim.OURS
    assert await effects.done("k", "a", rig.delay) is False, "the claim is another's by now"
    assert await effects.done("k", "b", rig.delay) is True


async def test_what_was_done_is_forgotten_after_its_time(rig, effects):
    await effects.claim("k", "a", rig.delay)
    await effects.done("k", "a", 3 * rig.delay)
    await rig.advance(rig.delay + 0.1)
    assert await effects.claim("k", "b", rig.delay) is Claim.DONE
    await rig.advance(2 * rig.delay)
    assert await effects.claim("k", "b", rig.delay) is Claim.OURS


async def test_an_effect_done_after_its_claim_ran_out_and_nobody_took_it_counts(rig, effects):
    await effects.claim("k", "a", rig.delay)
    await rig.advance(rig.delay + 0.1)
    assert await effects.done("k", "a", rig.delay) is True
    assert await effects.claim("k", "b", rig.delay) is Claim.DONE


async def test_claims_are_shared_between_processes(rig, broker, effects):
    other = (await rig.another()).idempotency()
    await effects.claim("k", "a", 60.0)
    assert await other.claim("k", "b", 60.0) is Claim.BUSY
