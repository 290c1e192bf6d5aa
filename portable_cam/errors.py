"""Every error that portable_cam raises on purpose.

::

    Error
    ├── ModelError               the file is not a model that can be read
    │   ├── ExternalDataError    its external data is missing or lies outside its folder
    │   └── UnsupportedOperatorError    an operator without a gradient rule stands on the path
    ├── LayerError               the layer to explain does not exist or does not fit the method
    ├── TargetError              the class, label or score to explain does not exist
    │   ├── HeadError            a detector, of which its file does not tell what its numbers mean
    │   └── RegionError          a region, pixel or mask does not fit this image
    ├── InputError               an input array has the wrong name, shape, type or values
    ├── ImageError               a picture cannot be decoded
    ├── PreprocessError          the preprocessing is unknown or contradicts itself
    ├── LabelError               a labels file cannot be read or does not fit the model
    ├── OptionError              an option has a value that is not one of those allowed
    └── DeviceError              the device or execution provider asked for is not there

A message names the offending thing, says what was expected, and what to do; a warning is a PortableCamWarning. This
module imports nothing, so that the graph room (``portable_cam.export``) and the kernel room can raise the same errors
as the run-time room.
"""


class Error(Exception):
    """Base class of all errors of portable_cam."""


class ModelError(Error):
    """The file or object is not an ONNX model that can be read and explained."""


class ExternalDataError(ModelError):
    """External tensor data is missing, truncated, or lies outside the model's folder."""


class UnsupportedOperatorError(ModelError):
    """An operator without a gradient rule stands between the score and the tensor to differentiate for."""


class LayerError(Error):
    """The layer to explain does not exist, or does not fit the method."""


class TargetError(Error):
    """The class, label or score to explain does not exist."""


class RegionError(TargetError):
    """A region, pixel or mask does not fit this image; it may fit another."""


class HeadError(TargetError):
    """The model is a detector, but what the numbers of its outputs mean is not told: they have to be described."""


class InputError(Error):
    """An input array has the wrong name, shape, type or values."""


class ImageError(Error):
    """A picture cannot be decoded: not an image, truncated, or too large."""


class PreprocessError(Error):
    """The preprocessing asked for is unknown or contradicts the model's input."""


class LabelError(Error):
    """A labels file cannot be read, or does not fit the model's classes."""


class OptionError(Error):
    """An option has a value that is not one of those allowed."""


class DeviceError(Error):
    """The device or execution provider asked for is not available."""


class PortableCamWarning(UserWarning):
    """A result may not be what it is taken for: something was guessed, or a method comes down to another."""
