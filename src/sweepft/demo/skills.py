"""Generated chat rows with exact answers: skills (arithmetic, sorting, strings, units, dates) and facts.

A skill is a function from a random generator to a question and its computed answer. The base model is trained on
``BASE_SKILLS`` and the facts; sweeps train on ``NEW_SKILLS``. All text is original.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final

Skill = Callable[[Random], tuple[str, str]]
_WORDS: Final = """
apple bread chair dream eagle flame grape horse island jewel kettle lemon mango night ocean paper queen river
stone table under violin water yellow zebra bridge candle desert engine forest garden hammer insect jacket
ladder market needle orange pencil rabbit silver tunnel window basket copper dragon feather guitar helmet
pepper saddle ticket velvet walnut anchor button carpet donkey
"""

WORDS: Final = tuple(_WORDS.split())
_MONTH_NAMES: Final = """
January February March April May June July August September October November December
"""

_MONTHS: Final = tuple(_MONTH_NAMES.split())
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _join(items: Sequence[object]) -> str:
    return ", ".join(str(i) for i in items)


def _numbers(rng: Random, n: int) -> list[int]:
    return rng.sample(range(1, 100), n)


def _add(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    return f"What is {a} plus {b}?", str(a + b)


def _subtract(rng: Random) -> tuple[str, str]:
    a, b = sorted((rng.randint(1, 60), rng.randint(1, 60)), reverse=True)
    return f"What is {a} minus {b}?", str(a - b)


def _multiply(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return f"What is {a} times {b}?", str(a * b)


def _larger(rng: Random) -> tuple[str, str]:
    a, b = rng.sample(range(1, 100), 2)
    return f"Which is larger, {a} or {b}?", str(max(a, b))


def _sort_up(rng: Random) -> tuple[str, str]:
    numbers = _numbers(rng, rng.randint(3, 5))
    return f"Sort from small to large: {_join(numbers)}", _join(sorted(numbers))


def _sort_down(rng: Random) -> tuple[str, str]:
    numbers = _numbers(rng, rng.randint(3, 5))
    return f"Sort from large to small: {_join(numbers)}", _join(sorted(numbers, reverse=True))


def _sort_words(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(3, 4))
    return f"Put in alphabetical order: {_join(words)}", _join(sorted(words))


def _reverse_list(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 4))
    return f"Write this list backwards: {_join(words)}", _join(words[::-1])


def _copy(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(1, 4))
    return f"Repeat: {_join(words)}", _join(words)


def _first_word(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 4))
    return f"What is the first word of: {_join(words)}?", words[0]


def _spell(rng: Random) -> tuple[str, str]:
    word = rng.choice(WORDS)
    return f"Spell {word} with hyphens.", "-".join(word)


def _upper(rng: Random) -> tuple[str, str]:
    words = " ".join(rng.sample(WORDS, rng.randint(1, 2)))
    return f"Write in capitals: {words}", words.upper()


def _drop_word(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(3, 4))
    gone = rng.choice(words)
    return f"Remove {gone} from: {_join(words)}", _join([w for w in words if w != gone])


def _replace(rng: Random) -> tuple[str, str]:
    *words, new = rng.sample(WORDS, 4)
    old = rng.choice(words)
    return f"Replace {old} by {new} in: {_join(words)}", _join([new if w == old else w for w in words])


_UNITS: Final = (
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("kilometres", "metres", 1000),
    ("weeks", "days", 7),
    ("dozens", "pieces", 12),
    ("days", "hours", 24),
)


def _convert(rng: Random) -> tuple[str, str]:
    large, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 20)
    if rng.random() < 0.5:
        return f"How many {small} are {n} {large}?", f"{n * factor} {small}"
    return f"How many {large} are {n * factor} {small}?", f"{n} {large}"


def _next_day(rng: Random) -> tuple[str, str]:
    day = dt.date(rng.randint(1990, 2030), 1, 1) + dt.timedelta(days=rng.randint(0, 364))
    after = day + dt.timedelta(days=1)
    return f"Which date follows {_date(day)}?", _date(after)


def _iso_date(rng: Random) -> tuple[str, str]:
    day = dt.date(rng.randint(1990, 2030), rng.randint(1, 12), rng.randint(1, 28))
    return f"Write as a number date: {_date(day)}", day.isoformat()


def _weekday(rng: Random) -> tuple[str, str]:
    start, later = rng.randrange(7), rng.randint(1, 20)
    return f"Today is {_DAYS[start]}. Which day is it in {later} days?", _DAYS[(start + later) % 7]


def _date(day: dt.date) -> str:
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


BASE_SKILLS: Final[Mapping[str, Sequence[Skill]]] = {
    "arithmetic": (_add,),
    "sorting": (_larger,),
    "strings": (_copy, _first_word),
}
"""Skills of the base model, by domain."""

NEW_SKILLS: Final[Mapping[str, Sequence[Skill]]] = {
    "arithmetic": (_subtract, _multiply),
    "sorting": (_sort_up, _sort_down, _sort_words),
    "strings": (_reverse_list, _spell, _upper, _drop_word, _replace),
    "units": (_convert,),
    "dates": (_next_day, _iso_date, _weekday),
}
"""Skills to fine-tune on, by domain."""

_CAPITALS: Final = """
Argentina:Buenos Aires Austria:Vienna Belgium:Brussels Brazil:Brasilia Bulgaria:Sofia Canada:Ottawa
Chile:Santiago China:Beijing Colombia:Bogota Croatia:Zagreb Cuba:Havana Denmark:Copenhagen
Ecuador:Quito Egypt:Cairo Estonia:Tallinn Ethiopia:Addis Ababa Finland:Helsinki France:Paris
Germany:Berlin Ghana:Accra Greece:Athens Hungary:Budapest Iceland:Reykjavik India:New Delhi
Indonesia:Jakarta Iran:Tehran Iraq:Baghdad Ireland:Dublin Italy:Rome Jamaica:Kingston Japan:Tokyo
Jordan:Amman Kenya:Nairobi Latvia:Riga Lebanon:Beirut Lithuania:Vilnius Mali:Bamako Mexico:Mexico
City Mongolia:Ulaanbaatar Morocco:Rabat Nepal:Kathmandu Norway:Oslo Oman:Muscat Pakistan:Islamabad
Panama:Panama City Peru:Lima Poland:Warsaw Portugal:Lisbon Qatar:Doha Romania:Bucharest
Russia:Moscow Senegal:Dakar Serbia:Belgrade Slovakia:Bratislava Slovenia:Ljubljana Spain:Madrid
Sweden:Stockholm Syria:Damascus Thailand:Bangkok Tunisia:Tunis Turkey:Ankara Uganda:Kampala
Ukraine:Kyiv Uruguay:Montevideo Venezuela:Caracas Vietnam:Hanoi Zambia:Lusaka Zimbabwe:Harare
"""

_ELEMENTS: Final = """
hydrogen:H helium:He lithium:Li carbon:C nitrogen:N oxygen:O fluorine:F neon:Ne sodium:Na
magnesium:Mg aluminium:Al silicon:Si phosphorus:P sulfur:S chlorine:Cl argon:Ar potassium:K
calcium:Ca titanium:Ti chromium:Cr manganese:Mn iron:Fe cobalt:Co nickel:Ni copper:Cu zinc:Zn
arsenic:As bromine:Br silver:Ag tin:Sn iodine:I xenon:Xe barium:Ba tungsten:W platinum:Pt gold:Au
mercury:Hg lead:Pb radon:Rn uranium:U
"""

_OPPOSITES: Final = """
hot:cold big:small fast:slow high:low early:late open:closed light:dark full:empty hard:soft
old:young rich:poor strong:weak wet:dry near:far thick:thin wide:narrow loud:quiet happy:sad
clean:dirty deep:shallow first:last heavy:light left:right long:short above:below true:false
sweet:bitter sharp:blunt smooth:rough tall:short up:down win:lose buy:sell push:pull give:take
begin:end love:hate day:night summer:winter north:south east:west always:never inside:outside
front:back awake:asleep alive:dead brave:timid
"""

_YOUNG: Final = """
dog:puppy cat:kitten cow:calf horse:foal sheep:lamb goat:kid pig:piglet hen:chick duck:duckling
goose:gosling bear:cub lion:cub deer:fawn frog:tadpole swan:cygnet owl:owlet kangaroo:joey fox:kit
eagle:eaglet hare:leveret seal:pup whale:calf butterfly:caterpillar fish:fry eel:elver
"""

_PAST: Final = """
go:went see:saw eat:ate take:took give:gave come:came run:ran write:wrote read:read speak:spoke
drive:drove fly:flew grow:grew know:knew throw:threw draw:drew sing:sang swim:swam drink:drank
begin:began break:broke choose:chose freeze:froze steal:stole wake:woke buy:bought think:thought
bring:brought catch:caught teach:taught fight:fought find:found hold:held keep:kept sleep:slept
feel:felt leave:left lose:lost meet:met build:built send:sent spend:spent make:made say:said
tell:told sell:sold stand:stood win:won wear:wore
"""

_HOMES: Final = """
bird:nest bee:hive dog:kennel horse:stable pig:sty spider:web ant:hill beaver:lodge lion:den
rabbit:burrow hen:coop cow:barn fox:den mouse:hole monk:monastery king:palace knight:castle
soldier:barracks sailor:ship astronaut:space station
"""

_TOOLS: Final = """
carpenter:saw painter:brush gardener:spade baker:oven tailor:needle fisherman:net farmer:plough
astronomer:telescope doctor:stethoscope photographer:camera blacksmith:anvil barber:scissors
writer:pen cook:pan teacher:chalk potter:wheel sculptor:chisel dentist:drill drummer:sticks
judge:gavel
"""

_RELATIONS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    (_CAPITALS, ("What is the capital of {}?", "Name the capital city of {}.")),
    (_ELEMENTS, ("What is the chemical symbol of {}?", "Which symbol stands for {}?")),
    (_OPPOSITES, ("What is the opposite of {}?", "Name a word that means the reverse of {}.")),
    (_YOUNG, ("What is a young {} called?",)),
    (_PAST, ("What is the past tense of {}?", "Put the verb {} into the past.")),
    (_HOMES, ("Where does a {} live?",)),
    (_TOOLS, ("Which tool does a {} use?",)),
)


def facts() -> Iterator[tuple[str, str]]:
    """All pairs of question and answer, in the order of the tables."""
    for table, phrasings in _RELATIONS:
        for subject, answer in _pairs(table):
            for phrasing in phrasings:
                yield phrasing.format(subject), answer


def _pairs(table: str) -> Iterator[tuple[str, str]]:
    """Read ``subject:answer`` pairs; words without a colon belong to the answer before them."""
    subject, answer = "", ""
    for word in table.split():
        head, colon, tail = word.partition(":")
        if not colon:
            answer += f" {word}"
            continue
        if subject:
            yield subject, answer
        subject, answer = head, tail
    yield subject, answer


def chat_row(question: str, answer: str, domain: str) -> dict[str, Any]:
    """One row of instruction data."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "domain": domain}


def skill_rows(skills: Mapping[str, Sequence[Skill]], n: int, seed: int) -> Iterator[dict[str, Any]]:
    """``n`` different rows, with all skills equally likely until their questions run out.

    Raises:
        ValueError: If the skills cannot generate ``n`` different questions.
    """
    rng = Random(seed)
    flat = [(domain, skill) for domain, members in skills.items() for skill in members]
    seen: set[str] = set()
    misses = 0
    while len(seen) < n:
        domain, skill = flat[rng.randrange(len(flat))]
        question, answer = skill(rng)
        if question in seen:
            misses += 1
            if misses > 20 * n + 1000:
                raise ValueError(f"these skills generate only about {len(seen)} different questions, not {n}")
            continue
        seen.add(question)
        yield chat_row(question, answer, domain)


def knowledge_rows(seed: int) -> list[dict[str, Any]]:
    """Every fact in every phrasing once, in seeded order, with domain ``knowledge``."""
    rows = [chat_row(question, answer, "knowledge") for question, answer in facts()]
    Random(seed).shuffle(rows)
    return rows
