"""The Triton functions themselves, one module per launcher beside this folder.

Nothing here is imported until a kernel is launched from source or compiled, so that the launchers work where Triton is
not installed. Conventions: ``*_ptr`` is a pointer, sizes and strides count elements, capitals are compile-time
constants, ``ALIGNED`` promises that the sizes or strides it covers are multiples of 16, which lets the compiler load 16
bytes at once. Every kernel accumulates in float32, in an order that depends on shapes alone.
"""
