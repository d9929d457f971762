"""English names of the WordNet classes (wnid) of the results; another class keeps its folder's name."""

from __future__ import annotations

from pathlib import PurePosixPath

NAMES = dict(
    entry.split(" ", 1)
    for entry in """
n01532829 house finch|n01704323 triceratops|n01770081 harvestman|n01855672 goose|n01930112 nematode
n02074367 dugong|n02091244 Ibizan hound|n02099601 golden retriever|n02105505 komondor
n02108551 Tibetan mastiff|n02110063 malamute|n02111277 Newfoundland|n02114548 white wolf
n02120079 Arctic fox|n02138441 meerkat|n02174001 rhinoceros beetle|n02443484 black-footed ferret
n02606052 rock beauty|n02747177 ashcan|n02823428 beer bottle|n02950826 cannon|n02971356 carton
n03017168 chime|n03062245 cocktail shaker|n03127925 crate|n03207743 dishrag|n03272010 electric guitar
n03347037 fire screen|n03417042 garbage truck|n03527444 holster|n03544143 hourglass|n03676483 lipstick
n03773504 missile|n03838899 oboe|n03888605 parallel bars|n03924679 photocopier|n03998194 prayer rug
n04146614 school bus|n04243546 slot|n04258138 solar dish|n04296562 stage|n04418357 theater curtain
n04443257 tobacco shop|n04515003 upright|n04596742 wok|n04612504 yawl|n07584110 consomme|n07697537 hotdog
n09246464 cliff|n13054560 bolete
""".strip()
    .replace("\n", "|")
    .split("|")
)


def class_names(images, labels) -> dict[int, str]:
    """Label -> name of the class, from image paths .../CLASS/NAME.JPEG and labels (N,)."""
    folders = {int(label): PurePosixPath(image).parent.name for image, label in zip(images, labels)}
    return {label: NAMES.get(folders[label], folders[label]) for label in sorted(folders)}
