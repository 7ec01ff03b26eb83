"""Published networks, frozen, that judge images: LPIPS, DISTS and the DINO features which the discriminator reads."""

from coda_deploy.perception.dino import DinoFeatures
from coda_deploy.perception.dists import Dists
from coda_deploy.perception.lpips import Lpips

__all__ = ["DinoFeatures", "Dists", "Lpips"]
