"""A program as an ONNX file: conversion, and the rewrites after it."""
