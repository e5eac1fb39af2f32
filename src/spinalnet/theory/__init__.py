"""The paper's theory as functions: conversion, approximation, narrowing, sensitivities."""

from spinalnet.theory.approximation import TARGETS, approximate, approximation_errors
from spinalnet.theory.conversion import convert, to_spinal
from spinalnet.theory.narrowing import narrow
from spinalnet.theory.sensitivity import explain, sensitivities
