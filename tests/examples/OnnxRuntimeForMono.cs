// What examples/csharp/Program.cs uses of Microsoft.ML.OnnxRuntime, in C# 7 for Mono, over the same native library.
//
// Microsoft's package is on NuGet and needs a newer compiler than Debian's mcs. This stands in for it in tests, so that the
// program is compiled, run, and held to Python's ids. Functions are taken out of OrtApi by their places in it, which never
// change: onnxruntime_c_api.h lists them.

using System;
using System.Collections;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;
using System.Text;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Microsoft.ML.OnnxRuntime.Tensors
{
    public class Tensor<T>
    {
        internal T[] Values;
        internal int[] Shape;
    }

    public class DenseTensor<T> : Tensor<T>
    {
        public DenseTensor(T[] memory, int[] dimensions)
        {
            if (dimensions.Aggregate(1, (product, side) => product * side) != memory.Length)
                throw new ArgumentException("the dimensions are not those of the memory");
            Values = memory;
            Shape = dimensions;
        }
    }
}

namespace Microsoft.ML.OnnxRuntime
{
    public interface IDisposableReadOnlyCollection<T> : IReadOnlyCollection<T>, IDisposable { }

    public class NodeMetadata
    {
        public int[] Dimensions { get; internal set; }
    }

    public class NamedOnnxValue
    {
        public string Name { get; internal set; }
        internal Array Values;
        internal int[] Shape;

        public static NamedOnnxValue CreateFromTensor<T>(string name, Tensor<T> value)
        {
            return new NamedOnnxValue { Name = name, Values = value.Values, Shape = value.Shape };
        }

        public IEnumerable<T> AsEnumerable<T>() { return (T[])Values; }
    }

    public class DisposableNamedOnnxValue : NamedOnnxValue { }

    internal class Results : List<DisposableNamedOnnxValue>, IDisposableReadOnlyCollection<DisposableNamedOnnxValue>
    {
        public void Dispose() { Clear(); }
    }

    internal static class Native
    {
        [DllImport("onnxruntime")]
        private static extern IntPtr OrtGetApiBase();

        private delegate IntPtr GetApi(uint version);
        internal delegate IntPtr Message(IntPtr status);
        internal delegate IntPtr CreateEnv(int level, byte[] name, out IntPtr env);
        internal delegate IntPtr Create(out IntPtr made);
        internal delegate IntPtr CreateSession(IntPtr env, byte[] path, IntPtr options, out IntPtr session);
        internal delegate IntPtr Run(IntPtr session, IntPtr options, IntPtr[] names, IntPtr[] values, UIntPtr count,
                                     IntPtr[] outputs, UIntPtr outputCount, IntPtr[] results);
        internal delegate IntPtr InputOf(IntPtr session, UIntPtr index, out IntPtr found);
        internal delegate IntPtr NameOf(IntPtr session, UIntPtr index, IntPtr allocator, out IntPtr name);
        internal delegate IntPtr From(IntPtr given, out IntPtr made);
        internal delegate IntPtr Count(IntPtr info, out UIntPtr count);
        internal delegate IntPtr Sizes(IntPtr info, long[] sizes, UIntPtr count);
        internal delegate IntPtr Memory(int allocator, int type, out IntPtr info);
        internal delegate IntPtr Tensor(IntPtr memory, IntPtr data, UIntPtr bytes, long[] shape, UIntPtr rank, int type, out IntPtr value);
        internal delegate void Release(IntPtr given);

        private static readonly IntPtr Table = Api();

        private static IntPtr Api()
        {
            var get = Marshal.GetDelegateForFunctionPointer<GetApi>(Marshal.ReadIntPtr(OrtGetApiBase()));
            return get(18);
        }

        internal static T At<T>(int place)
        {
            return Marshal.GetDelegateForFunctionPointer<T>(Marshal.ReadIntPtr(Table, place * IntPtr.Size));
        }

        internal static void Check(IntPtr status)
        {
            if (status != IntPtr.Zero) throw new InvalidOperationException(Marshal.PtrToStringAnsi(At<Message>(2)(status)));
        }

        internal static byte[] Text(string value) { return Encoding.UTF8.GetBytes(value + "\0"); }
    }

    public class InferenceSession : IDisposable
    {
        private readonly IntPtr session, memory;
        private readonly IntPtr input, output;

        public InferenceSession(string modelPath)
        {
            IntPtr env, options, allocator;
            Native.Check(Native.At<Native.CreateEnv>(3)(3, Native.Text("test"), out env));
            Native.Check(Native.At<Native.Create>(10)(out options));
            Native.Check(Native.At<Native.CreateSession>(7)(env, Native.Text(modelPath), options, out session));
            Native.Check(Native.At<Native.Create>(78)(out allocator));
            Native.Check(Native.At<Native.NameOf>(36)(session, UIntPtr.Zero, allocator, out input));
            Native.Check(Native.At<Native.NameOf>(37)(session, UIntPtr.Zero, allocator, out output));
            Native.Check(Native.At<Native.Memory>(69)(1, 0, out memory));
        }

        public IReadOnlyDictionary<string, NodeMetadata> InputMetadata
        {
            get
            {
                IntPtr type, tensor;
                Native.Check(Native.At<Native.InputOf>(33)(session, UIntPtr.Zero, out type));
                Native.Check(Native.At<Native.From>(55)(type, out tensor));
                var metadata = new NodeMetadata { Dimensions = Dimensions(tensor) };
                return new Dictionary<string, NodeMetadata> { { Marshal.PtrToStringAnsi(input), metadata } };
            }
        }

        public IDisposableReadOnlyCollection<DisposableNamedOnnxValue> Run(IReadOnlyCollection<NamedOnnxValue> inputs)
        {
            var given = inputs.Single();
            if (given.Name != Marshal.PtrToStringAnsi(input)) throw new ArgumentException("there is no input " + given.Name);
            var pinned = GCHandle.Alloc(given.Values, GCHandleType.Pinned);
            try
            {
                IntPtr value, shape, data;
                long[] sizes = given.Shape.Select(side => (long)side).ToArray();
                int type = given.Values is byte[] ? 2 : 6; // uint8, int32
                var bytes = new UIntPtr((ulong)Buffer.ByteLength(given.Values));
                var rank = new UIntPtr((uint)sizes.Length);
                Native.Check(Native.At<Native.Tensor>(49)(memory, pinned.AddrOfPinnedObject(), bytes, sizes, rank, type, out value));
                var results = new IntPtr[1];
                var one = new UIntPtr(1);
                Native.Check(Native.At<Native.Run>(9)(session, IntPtr.Zero, new[] { input }, new[] { value }, one, new[] { output }, one, results));
                Native.Check(Native.At<Native.From>(65)(results[0], out shape));
                Native.Check(Native.At<Native.From>(51)(results[0], out data));
                int[] found = Dimensions(shape);
                int count = found.Aggregate(1, (product, side) => product * side);
                Array values;
                if (given.Values is byte[])
                {
                    var ids = new int[count];
                    Marshal.Copy(data, ids, 0, count);
                    values = ids;
                }
                else
                {
                    var pixels = new byte[count];
                    Marshal.Copy(data, pixels, 0, count);
                    values = pixels;
                }
                Native.At<Native.Release>(96)(results[0]);
                Native.At<Native.Release>(96)(value);
                return new Results { new DisposableNamedOnnxValue { Name = Marshal.PtrToStringAnsi(output), Values = values, Shape = found } };
            }
            finally
            {
                pinned.Free();
            }
        }

        public void Dispose() { Native.At<Native.Release>(95)(session); }

        private static int[] Dimensions(IntPtr tensor)
        {
            UIntPtr rank;
            Native.Check(Native.At<Native.Count>(61)(tensor, out rank));
            var sizes = new long[(int)rank.ToUInt32()];
            Native.Check(Native.At<Native.Sizes>(62)(tensor, sizes, rank));
            return sizes.Select(size => (int)size).ToArray();
        }
    }
}
