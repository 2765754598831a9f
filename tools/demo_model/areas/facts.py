"""The fact table of the knowledge area: relations, their wordings in both directions, and the pairs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """Pairs (a, b) with questions that ask for b, questions that ask for a, and the sentence they share."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    forward: tuple[str, ...]
    backward: tuple[str, ...]
    sentence: str


def _pairs(table: str) -> tuple[tuple[str, str], ...]:
    """Read 'a:b, c:d' into pairs."""
    rows = [cell.strip().split(":") for cell in table.replace("\n", " ").split(",") if cell.strip()]
    return tuple((left, right) for left, right in rows)


CAPITAL = Relation(
    "capital",
    _pairs(
        """France:Paris, Germany:Berlin, Spain:Madrid, Italy:Rome, Japan:Tokyo, China:Beijing,
        Egypt:Cairo, Greece:Athens, Portugal:Lisbon, Austria:Vienna, Poland:Warsaw, Norway:Oslo,
        Sweden:Stockholm, Finland:Helsinki, Denmark:Copenhagen, Ireland:Dublin, Russia:Moscow,
        Turkey:Ankara, Iran:Tehran, Iraq:Baghdad, India:New Delhi, Thailand:Bangkok, Vietnam:Hanoi,
        Cuba:Havana, Peru:Lima, Chile:Santiago, Canada:Ottawa, Kenya:Nairobi, Ghana:Accra,
        Morocco:Rabat, Hungary:Budapest, Belgium:Brussels, Colombia:Bogota, Nepal:Kathmandu,
        South Korea:Seoul, Australia:Canberra"""
    ),
    (
        "What is the capital of {a}?",
        "Which city is the capital of {a}?",
        "Name the capital of {a}.",
        "Tell me the capital city of {a}.",
        "{a}: what is its capital?",
    ),
    (
        "Which country has the capital {b}?",
        "{b} is the capital of which country?",
        "Name the country whose capital is {b}.",
        "What country is {b} the capital of?",
    ),
    "The capital of {a} is {b}.",
)

SYMBOL = Relation(
    "symbol",
    _pairs(
        """hydrogen:H, helium:He, lithium:Li, carbon:C, nitrogen:N, oxygen:O, neon:Ne, sodium:Na,
        magnesium:Mg, aluminium:Al, silicon:Si, sulfur:S, chlorine:Cl, potassium:K, calcium:Ca,
        iron:Fe, copper:Cu, zinc:Zn, silver:Ag, tin:Sn, iodine:I, gold:Au, mercury:Hg, lead:Pb"""
    ),
    (
        "What is the chemical symbol of {a}?",
        "Which symbol stands for {a}?",
        "Give the symbol of the element {a}.",
        "How is {a} written in chemistry?",
    ),
    (
        "Which element has the symbol {b}?",
        "The symbol {b} stands for which element?",
        "Name the element with the symbol {b}.",
        "In chemistry, what is {b}?",
    ),
    "The symbol of {a} is {b}.",
)

LEGS = Relation(
    "legs",
    _pairs(
        """dog:4, cat:4, horse:4, cow:4, duck:2, hen:2, spider:8, ant:6, bee:6, snake:0, fish:0,
        crab:10, scorpion:8, ostrich:2, beetle:6, frog:4"""
    ),
    (
        "How many legs does a {a} have?",
        "A {a} has how many legs?",
        "Give the number of legs of a {a}.",
        "Count the legs of one {a}.",
    ),
    (),
    "A {a} has {b} legs.",
)

COLOUR = Relation(
    "colour",
    _pairs(
        """grass:green, snow:white, coal:black, blood:red, a banana:yellow, a carrot:orange,
        the clear sky:blue, a lemon:yellow, a ripe tomato:red, milk:white, chocolate:brown,
        a flamingo:pink, an emerald:green, a ruby:red, an aubergine:purple, a crow:black"""
    ),
    (
        "What colour is {a}?",
        "Which colour does {a} have?",
        "Name the colour of {a}.",
        "Tell me what colour {a} is.",
    ),
    (),
    "The colour of {a} is {b}.",
)

MONTH = Relation(
    "month",
    _pairs(
        """January:1, February:2, March:3, April:4, May:5, June:6, July:7, August:8, September:9,
        October:10, November:11, December:12"""
    ),
    (
        "What number is the month {a}?",
        "Which month of the year is {a}, as a number?",
        "Give the number of the month {a}.",
    ),
    (
        "Which month is number {b}?",
        "Name month number {b} of the year.",
        "What is month {b} called?",
    ),
    "{a} is month number {b}.",
)

DAY = Relation(
    "day",
    _pairs(
        """Monday:Tuesday, Tuesday:Wednesday, Wednesday:Thursday, Thursday:Friday, Friday:Saturday,
        Saturday:Sunday, Sunday:Monday"""
    ),
    (
        "Which day comes after {a}?",
        "What day follows {a}?",
        "Name the day after {a}.",
        "Today is {a}. What day is tomorrow?",
    ),
    (
        "Which day comes before {b}?",
        "What day precedes {b}?",
        "Name the day before {b}.",
        "Today is {b}. What day was yesterday?",
    ),
    "{b} comes after {a}.",
)

YOUNG = Relation(
    "young",
    _pairs(
        """dog:puppy, cat:kitten, cow:calf, horse:foal, sheep:lamb, goat:kid, pig:piglet,
        duck:duckling, lion:cub, frog:tadpole, swan:cygnet, kangaroo:joey"""
    ),
    (
        "What is a young {a} called?",
        "Name the young of a {a}.",
        "What do you call a baby {a}?",
        "Which word means a young {a}?",
    ),
    (
        "Which animal is a {b} when it is grown?",
        "A {b} is the young of which animal?",
        "What does a {b} grow into?",
    ),
    "A young {a} is called a {b}.",
)

OPPOSITE = Relation(
    "opposite",
    _pairs(
        """hot:cold, big:small, fast:slow, up:down, day:night, open:closed, full:empty, happy:sad,
        early:late, hard:soft, light:heavy, rich:poor, wet:dry, young:old, near:far, strong:weak"""
    ),
    (
        "What is the opposite of {a}?",
        "Name the opposite of {a}.",
        "Which word means the opposite of {a}?",
        "{a} and its opposite: which word is it?",
    ),
    (
        "What is the opposite of {b}?",
        "Name the opposite of {b}.",
        "Which word means the opposite of {b}?",
        "{b} and its opposite: which word is it?",
    ),
    "{a} and {b} are opposites.",
)

SIDES = Relation(
    "sides",
    _pairs("triangle:3, square:4, pentagon:5, hexagon:6, heptagon:7, octagon:8"),
    ("How many sides does a {a} have?", "A {a} has how many sides?", "Give the number of sides of a {a}."),
    ("Which shape has {b} sides?", "Name a regular shape with {b} sides."),
    "A {a} has {b} sides.",
)

PLANET = Relation(
    "planet",
    _pairs("Mercury:1, Venus:2, Earth:3, Mars:4, Jupiter:5, Saturn:6, Uranus:7, Neptune:8"),
    (
        "Counting from the Sun, what number is {a}?",
        "What place from the Sun does {a} have, as a number?",
        "Give the position of {a} from the Sun.",
    ),
    (
        "Which planet is number {b} from the Sun?",
        "Name planet {b} from the Sun.",
        "What is planet number {b} called?",
    ),
    "{a} is planet number {b} from the Sun.",
)

RELATIONS = (CAPITAL, SYMBOL, LEGS, COLOUR, MONTH, DAY, YOUNG, OPPOSITE, SIDES, PLANET)
