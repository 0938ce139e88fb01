"""A few hundred short facts in plain tables, and the questions that ask for them.

The idea to keep in mind: a table is a relation; every pair is asked for in each of its phrasings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["facts"]

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
    """All (question, answer) pairs, in the order of the tables."""
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
