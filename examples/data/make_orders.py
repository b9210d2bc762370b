"""Writes orders.csv, the demo's 5,000 orders: python3 make_orders.py > orders.csv (same bytes every time)."""

import csv
import random
import sys
import unicodedata

random.seed(20240229)

FIRST = """Amelia Noah Ines Luca Freya Mateo Ayşe Jonas Priya Kenji Zofia Hugo Nadia Tomás Siân Émile Ingrid Omar Leila
Björn Chiara Dara Ewa Finn Grace Haruto Ivana Jack Katarzyna Liam Maya Nils Olga Pedro Quinn Rosa Stefan Tove Uma Viktor
Wanjiru Xin Yusuf Zoë""".split()
LAST = """Novak Smith Müller Rossi Jensen Okafor Yılmaz Kowalska García Tanaka Dubois Larsen Murphy O'Brien Silva Lindqvist
Petrov Nguyen Bakker Horvat Fischer Moreau Andersson Ferreira Kaya Mensah Costa Weber Janssen Virtanen Brown Sato""".split()
STREETS = """Mill Lane|Harbour Street|Station Road|Church Row|High Street|Canal Quay|Orchard Close|Bridge Street|Market Square|
Garden Terrace|Old Brewery Yard|Kings Parade|Willow Way|Castle Hill|Linden Avenue|Weaver's Court""".replace("\n", "").split("|")
# city, country, currency, how postcodes look there (9: a digit, A: a letter)
PLACES = [
    ("Leeds", "UK", "GBP", "LS9 9AA"), ("Bristol", "UK", "GBP", "BS9 9AA"), ("Leiden", "NL", "EUR", "9999 AA"),
    ("Hamburg", "DE", "EUR", "29999"), ("Lyon", "FR", "EUR", "6900"), ("Torino", "IT", "EUR", "1019"),
    ("Porto", "PT", "EUR", "4099-999"), ("Aarhus", "DK", "DKK", "8999"), ("Göteborg", "SE", "SEK", "419 99"),
    ("Kraków", "PL", "PLN", "39-999"), ("Zürich", "CH", "CHF", "8099"), ("Boston", "US", "USD", "0299"),
    ("Portland", "US", "USD", "9799"), ("Kyoto", "JP", "JPY", "699-9999"),
]
SKUS = [f"{kind}-{size}" for kind in
        ("RIPSTOP-NYLON", "CANVAS-WAXED", "WEBBING-25MM", "BUCKLE-SIDE", "THREAD-POLY", "ZIP-REVERSIBLE", "TARP-3X3",
         "PACK-DAY", "TENT-SHELL", "GUYLINE-2MM") for size in ("S", "M", "L")]


def postcode(shape):
    return "".join(random.choice("0123456789") if c == "9" else random.choice("ABDEFGHJLN") if c == "A" and i > 1 else c
                   for i, c in enumerate(shape))


def mailbox(*names):
    plain = ".".join(names).replace("ı", "i").replace("ø", "o").lower()
    return "".join(c for c in unicodedata.normalize("NFD", plain) if c.isascii() and (c.isalnum() or c == "."))


out = csv.writer(sys.stdout, lineterminator="\n")
out.writerow(["order", "customer", "email", "address", "currency", "items"])
for number in range(1, 5001):
    first, last = random.choice(FIRST), random.choice(LAST)
    city, country, currency, shape = random.choice(PLACES)
    address = f"{random.randint(1, 180)} {random.choice(STREETS)}, {postcode(shape)} {city}, {country}"
    skus = random.sample(SKUS, random.choices([1, 2, 3, 4], [50, 30, 15, 5])[0])
    items = ";".join(f"{sku}×{random.choices([1, 2, 3, 5, 10, 25], [55, 20, 10, 8, 5, 2])[0]}" for sku in skus)
    out.writerow([f"R{100000 + number}", f"{first} {last}", f"{mailbox(first, last)}@example.com", address, currency, items])
