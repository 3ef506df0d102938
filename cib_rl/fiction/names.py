"""Names of the generated world. None is meant to be that of a person or place that exists."""

# ruff: noqa: SIM905  (a paragraph of names reads better than a list of quotes)

FIRST = tuple(
    "Adra Belno Corvin Dalia Edric Fenna Gorim Halda Isolt Jarek Kelda Lorin Mirna Nadol Orsa Pelin Quira Rondal "
    "Selka Tovin Ulma Vadric Wenna Yoric Zelda Brana Cedra Dorim Elvar Farin Gilda Hedrin Jolan Karis Lumen Marek "
    "Nolwa Osric Perda Rilka".split()
)
LAST = tuple(
    "Abbar Bostrel Carnow Dellin Ebrant Falstor Gandry Hollin Ilvane Jusk Kerrin Lomard Mistral Norvek Ostrand "
    "Pellar Quent Rastow Sundal Torvald Ulbrich Vessen Wardok Yelland Zorn Ambrel Brisk Corder Drummel Estry Fennick "
    "Grosvar Harbin Isker Jandel Kostra Lindow Marven Nettle Ormsk Pradel Rokeby Selwick Tamber Ulster Varnik "
    "Wexlow Yarrow".split()
)
TOWNS = tuple(
    "Aldermoor Brackwater Calden Dunmere Eastholt Fairlow Glenmark Harrowgate Inverell Jarlsby Kestwick Larkhaven "
    "Millbrook Northam Oakvale Penhallow Quarrel Ravenford Saltmarsh Thornbury Underhill Valmere Westerby Yewdale "
    "Zanthorpe Ashcombe Birchwell Copperfield Dovercross Elmstead Foxmoor Greyport Hazelden Ironbridge Juniper "
    "Kingsmere Longacre Mosswood Newhollow Orchard".split()
)
COUNTRIES = tuple("Andria Borland Cestria Dravia Elmark Fjordia Galdor Hestia Istrand Jorvia Kalden Lumeria".split())
RIVERS = tuple("Ash Bree Corr Dane Esk Fenn Gale Hurn Isar Joll Kyle Lune Mere Nith Orr Pell".split())
ADJECTIVES = tuple(
    "Silent Golden Broken Hidden Distant Crimson Frozen Hollow Wandering Burning Forgotten Silver Restless Gentle "
    "Bitter Endless Secret Lonely Velvet Shining".split()
)
NOUNS = tuple(
    "Harbor Garden Mirror Lantern Orchid Bridge Tower Winter River Crown Letter Shadow Voyage Candle Forest Island "
    "Raven Compass Feather Window Stone Bell Desert Meadow Storm Castle Anchor Violin Curtain Ladder".split()
)
