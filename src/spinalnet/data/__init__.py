"""What is read: data sets by name, folders of images, tables; their parts and their batches."""

from spinalnet.data.augment import AUGMENTATIONS, build_augment
from spinalnet.data.batches import ArrayDataset, DatasetInfo, FolderDataset, Splits, normalize
from spinalnet.data.catalog import DATASETS
from spinalnet.data.frames import Table, is_table, load_table
from spinalnet.data.loading import list_datasets, load, load_dataset, load_scored
from spinalnet.data.request import DataSpec, find_folder
from spinalnet.data.resampling import Resample, draw_parts, validation_rows
