"""Balances poles by policy gradient (REINFORCE). Each node has a cart with other physics."""

import argparse

import gymnasium
import torch
from torch import nn
from torch.nn import functional

import edgenode

CARTS = [  # what differs from gymnasium's CartPole-v1
    {"gravity": 1.6, "force_mag": 3.0},  # on the moon
    {"gravity": 24.8, "length": 0.3},  # on Jupiter, with a short pole
    {"masscart": 4.0, "force_mag": 15.0},  # heavy
    {"length": 2.0, "masspole": 0.5, "force_mag": 30.0},  # strong, with a long pole
]
COPIES, STEPS = 16, 250  # each attempt: carts at once, and steps at most
DISCOUNT = 0.98


def build(physics):
    """COPIES carts with these physics."""
    env = gymnasium.make_vec("CartPole-v1", num_envs=COPIES, vectorization_mode="vector_entry_point")
    for name, value in physics.items():
        setattr(env.unwrapped, name, value)
    cart = env.unwrapped
    cart.total_mass, cart.polemass_length = cart.masscart + cart.masspole, cart.masspole * cart.length
    return env


@torch.no_grad()
def attempt(env, seed):
    """Play until the poles fall. Returns states [STEPS, COPIES, 4], actions and whether each pole stood before."""
    states, actions, stood = [], [], []
    state, standing = env.reset(seed=seed)[0], torch.ones(COPIES)
    for _ in range(STEPS):
        states.append(torch.from_numpy(state))
        actions.append(torch.bernoulli(policy(states[-1]).squeeze(-1).sigmoid()))
        stood.append(standing)
        state, _, fallen, _, _ = env.step(actions[-1].long().numpy())
        standing = standing * ~torch.from_numpy(fallen)
    return torch.stack(states), torch.stack(actions), torch.stack(stood)


def returns(stood):
    """The discounted number of steps that each pole will stand, [STEPS, COPIES]."""
    later, found = torch.zeros(COPIES), []
    for now in stood.flip(0):
        later = now * (1 + DISCOUNT * later)
        found.append(later)
    return torch.stack(found).flip(0)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--part", type=int, help="which cart this node has, from 0 to 3 (default: all in turn)")
parser.add_argument("--seed", type=int, default=0)
given = parser.parse_args()

torch.set_num_threads(1)
torch.manual_seed(given.seed)  # all nodes start from the same policy
policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(policy.parameters(), lr=0.01)
envs = [build(physics) for physics in CARTS]
mine = envs if given.part is None else [envs[given.part % len(envs)]]
torch.manual_seed(1000 * given.seed + (given.part or 0))
mesh = edgenode.Mesh(policy, "run.toml", optimizer)


@mesh.evaluate
def standing():
    """For how much of STEPS the poles stand, on average over all carts."""
    return sum(attempt(env, seed=10**6)[2].mean().item() for env in envs) / len(envs)


for number in mesh.loop(range(10**6)):
    states, actions, stood = attempt(mine[number % len(mine)], seed=1000 * given.seed + number)
    future = returns(stood)
    advantage = (future - future[stood > 0].mean()) / (future[stood > 0].std() + 1e-6)
    surprise = functional.binary_cross_entropy_with_logits(policy(states).squeeze(-1), actions, reduction="none")
    loss = (surprise * advantage * stood).sum() / stood.sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mesh.step(loss=loss)

print(f"poles stand for {standing():.1%} of {STEPS} steps")
