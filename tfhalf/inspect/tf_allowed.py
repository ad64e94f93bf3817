"""The operations that an artifact's SavedModel may hold: those of TensorFlow 2.21's registry that only compute.

Left out is whatever reads or writes files, prints, talks to other processes or devices, runs Python or another program
within it (ReadFile, SaveV2, PrintV2, DebugIdentity, PyFunc, ImmutableConst, XlaCallModule, data sets, summaries, ...),
and control flow and queues of TensorFlow 1. An operation that is not listed is refused: new ones are added here.
"""

from __future__ import annotations

from tfhalf.inspect.facts import words

# What the registry calls stateless, without input and output.
_COMPUTE = words(
    "Abs Acos Acosh Add AddN AddV2 AdjustContrastv2 AdjustHue AdjustSaturation All Angle Any ApproxTopK "
    "ApproximateEqual ArgMax ArgMin AsString Asin Asinh Atan Atan2 Atanh AvgPool AvgPool3D AvgPool3DGrad "
    "AvgPoolGrad BandedTriangularSolve BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BesselI0 BesselI0e "
    "BesselI1 BesselI1e BesselJ0 BesselJ1 BesselK0 BesselK0e BesselK1 BesselK1e BesselY0 BesselY1 Betainc BiasAdd "
    "BiasAddGrad Bincount Bitcast BitwiseAnd BitwiseOr BitwiseXor BlockLSTM BlockLSTMV2 BroadcastArgs "
    "BroadcastGradientArgs BroadcastTo Bucketize CTCBeamSearchDecoder CTCGreedyDecoder CTCLoss CTCLossV2 Cast Ceil "
    "Cholesky ClipByValue CombinedNonMaxSuppression Complex ComplexAbs ConcatOffset ConcatV2 Conj "
    "ConjugateTranspose Const Conv2D Conv2DBackpropFilter Conv2DBackpropInput Conv3D Conv3DBackpropFilterV2 "
    "Conv3DBackpropInputV2 Cos Cosh CropAndResize CropAndResizeGradImage Cross Cumprod Cumsum CumulativeLogsumexp "
    "DataFormatDimMap DataFormatVecPermute Dawsn DenseBincount DenseCountSparseOutput DenseToDenseSetOperation "
    "DepthToSpace DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput "
    "Dequantize Diag DiagPart Digamma Dilation2D Div DivNoNan DrawBoundingBoxesV2 DynamicPartition DynamicStitch "
    "EditDistance Eig Einsum Elu EluGrad EmptyTensorList EnsureShape Equal Erf Erfc Erfinv EuclideanNorm Exp "
    "ExpandDims Expint Expm1 ExtractGlimpseV2 ExtractImagePatches ExtractVolumePatches FFT FFT2D FFT3D FFTND "
    "FakeParam FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel Fill Floor "
    "FloorDiv FloorMod FractionalAvgPool FractionalMaxPool FresnelCos FresnelSin FusedBatchNorm "
    "FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3 GRUBlockCell Gather GatherNd GatherV2 Greater "
    "GreaterEqual HSVToRGB HistogramFixedWidth IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND Identity "
    "IdentityN Igamma IgammaGradA Igammac Imag ImageProjectiveTransformV2 ImageProjectiveTransformV3 InTopKV2 Inv "
    "Invert InvertPermutation IsFinite IsInf IsNan IsotonicRegression KthOrderStatistic L2Loss LRN LRNGrad "
    "LSTMBlockCell LeakyRelu LeakyReluGrad LeftShift Less LessEqual Lgamma LinSpace ListDiff Log Log1p "
    "LogMatrixDeterminant LogSoftmax LogicalAnd LogicalNot LogicalOr LowerBound Lu MatMul MatrixBandPart "
    "MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 "
    "MatrixExponential MatrixInverse MatrixLogarithm MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve "
    "MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Max MaxPool MaxPool3D MaxPool3DGrad MaxPoolGrad "
    "MaxPoolGradV2 MaxPoolV2 MaxPoolWithArgmax Maximum Mean Min Minimum MirrorPad MirrorPadGrad Mod Mul MulNoNan "
    "Ndtri Neg NextAfter NoOp NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4 "
    "NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps NotEqual NthElement OneHot OnesLike Pack Pad PadV2 "
    "ParallelDynamicStitch PartitionedCall Placeholder PlaceholderWithDefault Polygamma PopulationCount Pow "
    "PreventGradient Prod Qr QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeV2 "
    "RFFT RFFT2D RFFT3D RFFTND RGBToHSV RaggedBincount RaggedCountSparseOutput RaggedFillEmptyRows RaggedGather "
    "RaggedRange RaggedTensorFromVariant RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant "
    "RandomGammaGrad Range Rank Real RealDiv Reciprocal ReciprocalGrad ReduceJoin RegexFullMatch RegexReplace Relu "
    "Relu6 Relu6Grad ReluGrad RequantizationRange RequantizationRangePerChannel Reshape ResizeArea ResizeBicubic "
    "ResizeBicubicGrad ResizeBilinear ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad Reverse "
    "ReverseSequence ReverseV2 RightShift Rint Roll Round Rsqrt RsqrtGrad ScaleAndTranslate ScatterNd "
    "ScatterNdNonAliasingAdd SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2 "
    "SegmentSum SegmentSumV2 Select SelectV2 SelfAdjointEig SelfAdjointEigV2 Selu SeluGrad Shape ShapeN Sigmoid "
    "SigmoidGrad Sign Sin Sinh Size Slice SobolSample Softmax SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad "
    "Softsign SoftsignGrad SpaceToBatchND SpaceToDepth SparseAdd SparseBincount SparseConcat "
    "SparseCountSparseOutput SparseCross SparseCrossHashed SparseCrossV2 SparseDenseCwiseAdd SparseDenseCwiseDiv "
    "SparseDenseCwiseMul SparseFillEmptyRows SparseMatMul SparseReduceMax SparseReduceMaxSparse SparseReduceSum "
    "SparseReduceSumSparse SparseReorder SparseReshape SparseSegmentMean SparseSegmentMeanWithNumSegments "
    "SparseSegmentSqrtN SparseSegmentSqrtNWithNumSegments SparseSegmentSum SparseSegmentSumWithNumSegments "
    "SparseSlice SparseSoftmax SparseSoftmaxCrossEntropyWithLogits SparseSparseMaximum SparseSparseMinimum "
    "SparseSplit SparseTensorDenseAdd SparseTensorDenseMatMul SparseToDense Spence Split SplitV Sqrt SqrtGrad "
    "Square SquaredDifference Squeeze StatelessCase StatelessIf StatelessMultinomial "
    "StatelessParameterizedTruncatedNormal StatelessRandomBinomial StatelessRandomGammaV2 StatelessRandomGammaV3 "
    "StatelessRandomGetKeyCounter StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2 "
    "StatelessRandomPoisson StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 "
    "StatelessRandomUniformInt StatelessRandomUniformIntV2 StatelessRandomUniformV2 "
    "StatelessSampleDistortedBoundingBox StatelessShuffle StatelessTruncatedNormal StatelessTruncatedNormalV2 "
    "StatelessWhile StaticRegexFullMatch StaticRegexReplace StopGradient StridedSlice StridedSliceAssign "
    "StridedSliceGrad StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2 "
    "StringStrip StringToHashBucket StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Sub "
    "Substr Sum Svd Tan Tanh TanhGrad TensorListConcat TensorListConcatLists TensorListConcatV2 "
    "TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength "
    "TensorListPopBack TensorListPushBack TensorListPushBackBatch TensorListReserve TensorListResize "
    "TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem TensorListSplit "
    "TensorListStack TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterSub TensorScatterUpdate "
    "TensorStridedSliceUpdate Tile TopK TopKV2 Transpose TridiagonalMatMul TridiagonalSolve TruncateDiv TruncateMod "
    "UnicodeDecode UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode Unique UniqueV2 "
    "UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentJoin UnsortedSegmentMax "
    "UnsortedSegmentMin UnsortedSegmentProd UnsortedSegmentSum UpperBound Where Xdivy XlaDynamicSlice "
    "XlaDynamicUpdateSlice Xlog1py Xlogy ZerosLike Zeta "
)
# Variables, calls and branches, tables in memory, random numbers, cuDNN's recurrent layers.
_STATE = words(
    "VarHandleOp ReadVariableOp AssignVariableOp AssignAddVariableOp AssignSubVariableOp VarIsInitializedOp "
    "VariableShape DisableCopyOnRead ResourceGather ResourceGatherNd ResourceScatterUpdate ResourceScatterAdd "
    "ResourceScatterNdUpdate ResourceScatterNdAdd ResourceStridedSliceAssign StatefulPartitionedCall While If Case "
    "Assert CheckNumerics CheckNumericsV2 GuaranteeConst Empty DeviceIndex HashTableV2 MutableHashTableV2 "
    "MutableHashTableOfTensorsV2 MutableDenseHashTableV2 AnonymousHashTable AnonymousMutableHashTable "
    "AnonymousMutableDenseHashTable InitializeTableV2 LookupTableFindV2 LookupTableImportV2 LookupTableExportV2 "
    "LookupTableInsertV2 LookupTableRemoveV2 LookupTableSizeV2 RandomUniform RandomUniformInt RandomStandardNormal "
    "TruncatedNormal ParameterizedTruncatedNormal RandomShuffle RandomGamma RandomPoissonV2 Multinomial "
    "StatefulUniform StatefulUniformInt StatefulUniformFullInt StatefulStandardNormalV2 StatefulTruncatedNormal "
    "StatefulRandomBinomial RngReadAndSkip RngSkip StatelessRandomGetAlg TensorArrayV3 TensorArrayReadV3 "
    "TensorArrayWriteV3 TensorArrayGatherV3 TensorArrayScatterV3 TensorArrayConcatV3 TensorArraySplitV3 "
    "TensorArraySizeV3 TensorArrayCloseV3 CudnnRNN CudnnRNNV2 CudnnRNNV3 CudnnRNNParamsSize "
    "CudnnRNNCanonicalToParams CudnnRNNCanonicalToParamsV2 CudnnRNNParamsToCanonicalV2 "
)
COMPUTES = frozenset((*_COMPUTE, *_STATE))
# Which input of an operation says how large a result is to be.
SIZED = {
    **dict.fromkeys(
        words(
            "Fill Empty RandomUniform RandomUniformInt RandomStandardNormal TruncatedNormal RandomGamma "
            "RandomPoissonV2 "
            "StatelessRandomUniform StatelessRandomUniformV2 StatelessRandomNormal StatelessRandomNormalV2 "
            "StatelessTruncatedNormal StatelessTruncatedNormalV2 StatelessRandomUniformInt StatelessRandomUniformIntV2 "
            "Conv2DBackpropInput Conv3DBackpropInputV2 RaggedTensorToTensor"
        ),
        0,
    ),
    **dict.fromkeys(
        words(
            "BroadcastTo Tile OneHot Range ResizeBilinear ResizeBicubic ResizeArea ResizeNearestNeighbor Pad PadV2 "
            "MirrorPad Bincount DenseBincount SparseToDense TensorListReserve TensorListResize TensorArrayV3"
        ),
        1,
    ),
    **dict.fromkeys(
        words(
            "LinSpace ScatterNd UnsortedSegmentSum UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd "
            "ImageProjectiveTransformV3"
        ),
        2,
    ),
    "CropAndResize": 3,
}
# Of the functions with which a SavedModel is saved and restored; no function that can be called may reach them.
SAVER = frozenset(words("SaveV2 RestoreV2 MergeV2Checkpoints ShardedFilename"))
