"""The names that the other apps may import from the ledger. They also import from `allowance.plumbing`."""

from __future__ import annotations

from allowance import allowance, clock, ledger, reading, reservations, validation
from allowance.amounts import WeiFormField, parse_wei, wei_text
from allowance.causes import MANY, Earning, causes, earning
from allowance.chain import CHECK_BLOCKS, CHECK_STAKE
from allowance.fields import WeiField
from allowance.follow.adapters import chain_source, collateral_source, is_played, manifest_source, validator
from allowance.follow.conf import conf as follow_settings
from allowance.follow.following import Following
from allowance.follow.libraries import missing_library, require_library
from allowance.follow.limits import parse_limits
from allowance.follow.running import GRACE
from allowance.follow.sources import SourceError
from allowance.ledger import Balance, Standing, Steps, Window, present, to_seconds, value_at
from allowance.locks import (
    bound_waits,
    hurried_transaction,
    ledger_statement,
    ledger_transaction,
    lock_account,
    lock_chain,
    lock_timeout,
)
from allowance.losses import CHECK_MANIFESTS, CHECK_NEURONS, Absence, Silence, absence, silences
from allowance.models import (
    Account,
    Block,
    Follower,
    LedgerCheck,
    ManifestSync,
    Reservation,
    ReservationState,
    SourceReport,
    expired_at,
    held_at,
    new_version,
)
from allowance.models import Miner as MinerRow
from allowance.oversight import fates, pruning
from allowance.oversight.fates import Fate, Run, Total
from allowance.oversight.pruning import Batch, delete_in_batches
from allowance.oversight.totals import LISTED, SOON, LiveReservation, MinerTotals, Totals, totals
from allowance.reading import Chain, Entry, Expired, Hold, window
from allowance.service import not_enough
from allowance.types import (
    BLOCK_DURATION_US,
    BLOCK_EXPIRY,
    EXECUTOR_CLASSES,
    HOTKEY_LENGTH,
    MAX_AHEAD,
    MAX_BLOCK_NUMBER,
    MAX_EXECUTORS,
    MAX_JOB_RUN_TIME,
    MAX_WEI,
    RESERVATION_IDS,
    RESERVATION_MARGIN,
    BadInputError,
    ExecutorClass,
    JobTooLong,
    LockTimeout,
    Miner,
    NotEnoughAllowanceException,
    ReservationAlreadySpent,
    ReservationException,
)
