"""Code of somebody else's site, for mypy --strict to look at beside the installed wheel."""

from allowance import allowance
from allowance.types import AllowanceException, BadInputError, Miner
from receipts import receipts
from routing import routing
from routing.requests import V2JobRequest, read_request
from routing.types import JobRoute, JobRoutingException, MinerIncidentType


async def route(content: object) -> JobRoute | str:
    request: V2JobRequest = read_request(content)
    try:
        found = await routing().pick_miner_for_job_request(request)
    except (BadInputError, AllowanceException, JobRoutingException) as refusal:
        return str(refusal)
    if found.allowance_reservation_id is not None:
        await allowance().aspend_allowance(found.allowance_reservation_id)
    hotkey, failed = found.miner.hotkey_ss58, MinerIncidentType.MINER_JOB_FAILED
    await routing().report_miner_incident(failed, hotkey, request.uuid, request.executor_class)
    return found


def addresses() -> dict[str, int]:
    known: list[Miner] = allowance().miners()
    return {miner.address: miner.port for miner in known}


record = receipts().record
