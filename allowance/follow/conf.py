"""The settings of the chain follower."""

from __future__ import annotations

from allowance.plumbing.settings import Setting, Settings

SUBTENSOR, PYLON, JOURNAL = SOURCES = ("subtensor", "pylon", "journal")
MINERS, COMMITMENTS = MANIFEST_SOURCES = ("miners", "commitments")
EVM, NONE = COLLATERAL_SOURCES = ("evm", "none")

conf = Settings(
    Setting(
        "CHAIN_SOURCE",
        SUBTENSOR,
        "Where the chain is read: subtensor (a node), pylon (a Pylon service), journal (a recorded subnet, for a "
        "demo), or the dotted path of a class of your own.",
    ),
    Setting("NETUID", 12, "The number of the subnet.", least=0, most=65_535),
    Setting(
        "VALIDATOR_HOTKEY",
        "",
        "The ss58 address of the validator's hotkey. The stake share is that of this hotkey.",
    ),
    Setting(
        "VALIDATOR_HOTKEY_FILE",
        "",
        "The file of the validator's hotkey, such as ~/.bittensor/wallets/NAME/hotkeys/KEY. The follower signs its "
        "requests for manifests with it. It needs no coldkey.",
    ),
    Setting("VALIDATOR_HOTKEY_PASSWORD", "", "The password of VALIDATOR_HOTKEY_FILE, if the file is encrypted."),
    Setting(
        "SUBTENSOR_URL",
        ["wss://entrypoint-finney.opentensor.ai:443"],
        "The WebSocket addresses of subtensor nodes, separated by commas. The follower uses the first that works. Use "
        "a lite node of your own, such as ws://127.0.0.1:9944: public nodes limit the number of calls.",
    ),
    Setting(
        "SUBTENSOR_ARCHIVE_URL",
        "",
        "The WebSocket address of an archive node, for blocks whose state the node has discarded.",
    ),
    Setting("PYLON_ADDRESS", "", "The address of the Pylon service, such as http://127.0.0.1:8000."),
    Setting("PYLON_IDENTITY_NAME", "", "The name of the identity at the Pylon service, which has its own addresses."),
    Setting("PYLON_IDENTITY_TOKEN", "", "The token of the identity at the Pylon service."),
    Setting(
        "PYLON_OPEN_ACCESS_TOKEN",
        "",
        "The token for open access at the Pylon service. From version 2.0 on the service needs it, also beside an "
        "identity.",
    ),
    Setting(
        "MANIFESTS_FROM",
        MINERS,
        "Where the executors of miners are read: miners (each miner is asked), commitments (on the chain), or the "
        "dotted path of a class of your own.",
    ),
    Setting(
        "MANIFEST_LIMITS",
        {"always_on.llm.a6000": 2},
        "The maximum number of executors of a miner by class, as JSON. Higher counts are clipped.",
    ),
    Setting(
        "COLLATERAL_FROM",
        EVM,
        "Where the collateral is read: evm (a contract on the chain), none, or the dotted path of a class of your own.",
    ),
    Setting(
        "EVM_URL",
        "",
        "The HTTP address of the node's EVM interface. By default it is derived from SUBTENSOR_URL.",
    ),
    Setting("EVM_CHAIN_ID", 964, "The id of the EVM chain: 964 on the main network, 945 on the test network.", least=0),
    Setting(
        "COLLATERAL_CONTRACT",
        "",
        "The address of the collateral contract. By default the validator's own commitment on the chain names it.",
    ),
    Setting(
        "JOURNAL_FILE",
        "",
        "The journal that CHAIN_SOURCE=journal plays, plain or compressed with gzip. After its end it begins again.",
    ),
    Setting(
        "JOURNAL_SPEED", 1.0, "How many times faster than a real chain the journal is played.", least=0.1, most=600
    ),
    Setting("FOLLOW_POLL_SECONDS", 3.0, "The time between two looks for a new finalized block.", "s", least=0.01),
    Setting(
        "FOLLOW_PRIVATE_ADDRESSES",
        0,
        "1 allows connections to miners at loopback, private and link-local addresses. Only tests need this.",
        least=0,
        most=1,
    ),
)
