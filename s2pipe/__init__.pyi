from .core.errors import CatalogError as CatalogError
from .core.errors import InputError as InputError
from .core.errors import ReadError as ReadError
from .core.errors import S2PipeError as S2PipeError
from .core.errors import StoreError as StoreError
from .engine.sharpening import fit as fit
from .engine.sharpening import sharpen as sharpen
from .inputs.arrays import from_arrays as from_arrays
from .inputs.load import load as load
from .inputs.search import group_items as group_items
from .inputs.search import search as search
from .jobs.job import sharpen_to_store as sharpen_to_store
from .jobs.tiles import sharpen_tiles as sharpen_tiles
from .methods import list_methods as list_methods
from .methods.saving import load_sharpener as load_sharpener
from .methods.saving import save_sharpener as save_sharpener
from .physics.sensor import Sensor as Sensor
from .quality.consistency import check_consistency as check_consistency
from .quality.evaluation import evaluate as evaluate
from .quality.registration import check_geometry as check_geometry
from .quality.registration import check_registration as check_registration
from .quality.registration import repair_registration as repair_registration
from .store.zarr_io import list_chunks as list_chunks
from .store.zarr_io import open_zarr as open_zarr
from .store.zarr_io import to_zarr as to_zarr

__version__: str
