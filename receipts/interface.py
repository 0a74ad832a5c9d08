"""The names that sibling apps may import from this app. They import nothing else from it."""

from __future__ import annotations

from receipts import ongoing, pruning, receipts
from receipts.models import JobAcceptedReceipt, JobFinishedReceipt, JobStartedReceipt, Receipt
from receipts.ongoing import Jobs, Lasting, ends
from receipts.ongoing import end as end_receipts
from receipts.schemas import Hotkey, JobAccepted, JobFinished, JobStarted, Time, Ttl, bounded, read
from receipts.service import table_of
from receipts.signatures import can_verify, is_signed
from receipts.transfer.intake import Intake, Refused
from receipts.transfer.loop import ReceiptsLoop
from receipts.transfer.pages import HttpPages, MinerAddress, ReceiptSource
from receipts.types import MAX_TTL, BadReceiptError, ReceiptAlreadyVoided
from receipts.voiding import NAME_LENGTH, Voidable, VoidForm, void_by, void_receipt
