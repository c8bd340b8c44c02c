"""What the clients ask: stories that go on for longer than is measured, and systems of known length."""

from tests.bench.http_client import Question

NUM_CLIENTS = 16
NUM_TOKENS = 64

# Decoded greedily, the answers to these go on for more than 256 tokens with the model used here.
SUBJECTS = (
    "a lighthouse keeper",
    "a mountain village",
    "a desert caravan",
    "a clever fox",
    "an old clockmaker",
    "a river ferry",
    "a winter market",
    "a stone bridge",
    "a night train",
    "a lonely island",
    "a young carpenter",
    "a forgotten garden",
    "a harbour pilot",
    "a travelling circus",
    "a snowed-in inn",
    "a wandering doctor",
)
MOODS = ("very long", "long and quiet")


def story(subject: str, mood: str = MOODS[0]) -> str:
    return f"Tell me a {mood} story about {subject}, with many chapters."


def conversations(system: str = "", profile: str = "", num_tokens: int = NUM_TOKENS) -> list[list[Question]]:
    """For each of 16 clients two questions, asked one after the other; no two are alike."""
    return [
        [Question(story(subject, mood), num_tokens, system, profile) for mood in MOODS]
        for subject in SUBJECTS[:NUM_CLIENTS]
    ]


_FACTS = (
    "Bed {n} has a moisture sensor at ten centimetres, a light sensor to the north and valve number {n}. ",
    "Water bed {n} before sunrise and never while the air is above thirty degrees. ",
    "If the sensor of bed {n} reads below twenty percent, say so and name the valve. ",
)


def system_prompt(num_facts: int) -> str:
    """Instructions as a box would have them: about 20 tokens for each fact, with the model used here."""
    facts = (_FACTS[number % len(_FACTS)].format(n=number // len(_FACTS) + 1) for number in range(num_facts))
    return "You look after a greenhouse and tell stories to its visitors. " + "".join(facts).rstrip()


# 220 and 1,000 tokens with the model used here; the tables say what they were.
SHORT_SYSTEM = system_prompt(10)
LONG_SYSTEM = system_prompt(49)
