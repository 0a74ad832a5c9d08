# pragma version 0.4.3
"""
@title A collateral contract for tests: deposits per account, which a trustee may reduce.
@notice collateral.hex is its bytecode. To make it anew: vyper --no-bytecode-metadata -f bytecode collateral.vy
"""

NETUID: public(immutable(uint16))
TRUSTEE: public(immutable(address))
collaterals: public(HashMap[address, uint256])


@deploy
def __init__(netuid: uint16):
    NETUID = netuid
    TRUSTEE = msg.sender


@external
@payable
def deposit():
    self.collaterals[msg.sender] += msg.value


@external
def slash(account: address, amount: uint256):
    assert msg.sender == TRUSTEE, "only the trustee may slash"
    self.collaterals[account] -= amount
