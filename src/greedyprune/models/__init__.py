"""Model families as data: the layout of each family's images. Every list of families is read from `FAMILIES`."""

from greedyprune.models._family import Family as Family
from greedyprune.models._family import ImageTokens as ImageTokens
from greedyprune.models._family import Medium as Medium
from greedyprune.models._family import Visuals as Visuals
from greedyprune.models._family import audio as audio
from greedyprune.models._family import image as image
from greedyprune.models._family import video as video
from greedyprune.models.table import FAMILIES as FAMILIES
