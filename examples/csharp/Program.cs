// Tokens of images in C#, by ONNX Runtime alone: the bundle's encode.fp32.onnx and decoder.fp32.onnx.
//
//   dotnet run -- bundle/ encode a.rgb b.rgb > ids.jsonl       an image's ids are one line: [12, 7, ...]
//   dotnet run -- bundle/ decode a.out.rgb b.out.rgb < ids.jsonl
//
// An .rgb file is height * width * 3 bytes, rows from the top, of the bundle's own size: opening, turning and resizing
// are the caller's (docs/images.md has the rule).

using System;
using System.Collections.Generic;
using System.IO;
using System.Linq;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

internal static class Program
{
    private static int Main(string[] arguments)
    {
        if (arguments.Length < 3 || (arguments[1] != "encode" && arguments[1] != "decode"))
        {
            Console.Error.WriteLine("usage: CodaTokens BUNDLE encode|decode FILE.rgb...");
            return 2;
        }
        try
        {
            var paths = arguments.Skip(2);
            if (arguments[1] == "encode") Encode(arguments[0], paths);
            else Decode(arguments[0], paths);
            return 0;
        }
        catch (Exception error)
        {
            Console.Error.WriteLine("error: " + error.Message);
            return 1;
        }
    }

    private static void Encode(string bundle, IEnumerable<string> paths)
    {
        using (var session = new InferenceSession(Path.Combine(bundle, "encode.fp32.onnx")))
        {
            // The graph tells its own sizes, [-1, H, W, 3]; the first is the batch.
            int[] shape = session.InputMetadata["image"].Dimensions;
            foreach (string path in paths)
            {
                byte[] pixels = File.ReadAllBytes(path);
                if (pixels.Length != shape[1] * shape[2] * 3)
                {
                    throw new InvalidDataException(
                        path + " has " + pixels.Length + " bytes, expected " + shape[1] + " * " + shape[2] + " * 3");
                }
                Console.WriteLine("[" + string.Join(", ", Run<byte, int>(session, "image", pixels, 1, shape[1], shape[2], 3)) + "]");
            }
        }
    }

    private static void Decode(string bundle, IEnumerable<string> paths)
    {
        using (var session = new InferenceSession(Path.Combine(bundle, "decoder.fp32.onnx")))
        {
            int length = session.InputMetadata["ids"].Dimensions[1];
            foreach (string path in paths)
            {
                string[] words = (Console.ReadLine() ?? "").Split(new[] { '[', ']', ',', ' ' }, StringSplitOptions.RemoveEmptyEntries);
                // The graph looks them up in a table: whoever takes ids from others holds them to 0 <= id < vocab_size first.
                if (words.Length != length)
                {
                    throw new InvalidDataException("a line has " + words.Length + " ids, expected " + length);
                }
                File.WriteAllBytes(path, Run<int, byte>(session, "ids", words.Select(int.Parse).ToArray(), 1, length));
            }
        }
    }

    // A batch of one: [1, ...] in, the values of the one output out. Several images go in one run as [B, ...].
    private static TOut[] Run<TIn, TOut>(InferenceSession session, string input, TIn[] values, params int[] shape)
    {
        var given = NamedOnnxValue.CreateFromTensor(input, new DenseTensor<TIn>(values, shape));
        using (var results = session.Run(new[] { given }))
        {
            return results.First().AsEnumerable<TOut>().ToArray();
        }
    }
}
