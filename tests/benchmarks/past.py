"""Rows of long ago, many at a time: what a router keeps and a pick must not feel."""

from __future__ import annotations

_ACCOUNTS = "accounts AS (SELECT *, row_number() OVER (ORDER BY id) - 1 AS place FROM allowance_account)"
_EACH = """
    FROM generate_series(%(first)s::int, %(last)s) AS i JOIN accounts ON place = i %% (SELECT count(*) FROM accounts)
"""

# Receipts that are neither signed nor voided.
_BLANK = "voided_by, void_reason, signed, validator_signature, miner_signature"
_BLANKS = "'', '', '', '', ''"

RECEIPTS = f"""
    WITH {_ACCOUNTS}, jobs AS (
        SELECT gen_random_uuid() AS job, miner_id AS miner, executor_class,
               now() - interval '1 day' - i * interval '2.5 s' AS began {_EACH}
    ), started AS (
        INSERT INTO router_receipts_jobstartedreceipt
            (job_uuid, miner_hotkey, validator_hotkey, timestamp, executor_class, is_organic, ttl, valid_until,
             {_BLANK})
        SELECT job, miner, 'validator', began, executor_class, true, 300, began + interval '300 s', {_BLANKS} FROM jobs
    )
    INSERT INTO router_receipts_jobfinishedreceipt
        (job_uuid, miner_hotkey, validator_hotkey, timestamp, time_started, time_took_us, score_str, block_numbers,
         {_BLANK})
    SELECT job, miner, 'validator', began + interval '200 s', began, 200000000, '1', '[]', {_BLANKS} FROM jobs
"""  # noqa: S608 (nothing from outside is filled in)
"""Jobs that started and finished."""

INCIDENTS = f"""
    WITH {_ACCOUNTS}
    INSERT INTO routing_minerincident
        (type, timestamp, hotkey_ss58address, job_uuid, executor_class, executors, voided_by, void_reason)
    SELECT 'MINER_JOB_FAILED', now() - interval '25 hours' - i * interval '5 s', miner_id, gen_random_uuid(),
           executor_class, 1, '', '' {_EACH}
"""
"""Incidents that no longer count."""

# No two of an account share a block, and all blocks are older than any that a balance remembers.
RESERVATIONS = f"""
    WITH {_ACCOUNTS}, jobs AS (
        SELECT id, 3 * (i / (SELECT count(*) FROM accounts)) AS block,
               (ARRAY['spent', 'released', 'expired'])[1 + i %% 3] AS state,
               now() - interval '1 day' - i * interval '9 s' AS began {_EACH}
    )
    INSERT INTO allowance_reservation (id, account_id, job_uuid, blocks, created_at, expires_at, state, ended_at)
    SELECT 1 + floor(random() * (2 ^ 53 - 1))::bigint, id, gen_random_uuid(),
           jsonb_build_array(block, block + 1, block + 2), began, began + interval '130 s', state,
           began + CASE state WHEN 'expired' THEN interval '130 s' ELSE interval '2 s' END
    FROM jobs
"""  # noqa: S608
"""Reservations that ended."""

PAST = {"receipts": RECEIPTS, "incidents": INCIDENTS, "reservations": RESERVATIONS}
"""Statements that insert the rows number `first` to `last`."""
