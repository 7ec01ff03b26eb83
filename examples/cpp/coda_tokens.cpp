// Tokens of images in C++, by ONNX Runtime alone: the bundle's encode.fp32.onnx and decoder.fp32.onnx.
//
//   g++ -std=c++17 -O2 coda_tokens.cpp -I ORT/include -L ORT/lib -Wl,-rpath,ORT/lib -lonnxruntime -o coda_tokens
//   ./coda_tokens bundle/ encode a.rgb b.rgb > ids.jsonl        an image's ids are one line: [12, 7, ...]
//   ./coda_tokens bundle/ decode a.out.rgb b.out.rgb < ids.jsonl
//
// ORT is what onnxruntime-linux-x64-VERSION.tgz of its releases holds. An .rgb file is height * width * 3 bytes, rows
// from the top, of the bundle's own size: opening, turning and resizing are the caller's (docs/images.md has the rule).

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

class Graph {
 public:
  Graph(Ort::Env& env, const std::string& path, const char* input, const char* output)
      : session_(env, path.c_str(), Ort::SessionOptions{}), input_(input), output_(output) {}

  // A batch of one: [1, ...] in, the values of the output out. Several images go in one run as [B, ...].
  template <class In, class Out>
  std::vector<Out> run(std::vector<In>& values, std::vector<int64_t> shape) {
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto in = Ort::Value::CreateTensor<In>(memory, values.data(), values.size(), shape.data(), shape.size());
    std::vector<Ort::Value> out = session_.Run(Ort::RunOptions{}, &input_, &in, 1, &output_, 1);
    const Out* first = out[0].GetTensorData<Out>();
    return {first, first + out[0].GetTensorTypeAndShapeInfo().GetElementCount()};
  }

  // The graph tells its own sizes; what is -1 is the batch.
  std::vector<int64_t> input_shape() const {
    return session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  }

 private:
  Ort::Session session_;
  const char* input_;
  const char* output_;
};

std::vector<uint8_t> read_pixels(const std::string& path, int64_t height, int64_t width) {
  std::ifstream file(path, std::ios::binary);
  std::vector<uint8_t> pixels{std::istreambuf_iterator<char>(file), {}};
  if (pixels.size() != static_cast<size_t>(height * width * 3)) {
    throw std::runtime_error(path + " has " + std::to_string(pixels.size()) + " bytes, expected " +
                             std::to_string(height) + " * " + std::to_string(width) + " * 3");
  }
  return pixels;
}

void encode(Ort::Env& env, const std::string& bundle, const std::vector<std::string>& paths) {
  Graph graph(env, bundle + "/encode.fp32.onnx", "image", "ids");
  const auto shape = graph.input_shape();  // [-1, H, W, 3]
  for (const auto& path : paths) {
    auto pixels = read_pixels(path, shape[1], shape[2]);
    const char* before = "[";
    for (int32_t id : graph.run<uint8_t, int32_t>(pixels, {1, shape[1], shape[2], 3})) {
      std::cout << std::exchange(before, ", ") << id;
    }
    std::cout << "]\n";
  }
}

void decode(Ort::Env& env, const std::string& bundle, const std::vector<std::string>& paths) {
  Graph graph(env, bundle + "/decoder.fp32.onnx", "ids", "image");
  const auto length = graph.input_shape()[1];
  for (const auto& path : paths) {
    std::string line;
    std::getline(std::cin, line);
    for (char& c : line) {
      if (c == '[' || c == ']' || c == ',') c = ' ';
    }
    std::istringstream numbers(line);
    std::vector<int32_t> ids{std::istream_iterator<int32_t>(numbers), {}};
    // The graph looks them up in a table: whoever takes ids from others holds them to 0 <= id < vocab_size first.
    if (static_cast<int64_t>(ids.size()) != length) {
      throw std::runtime_error("a line has " + std::to_string(ids.size()) + " ids, expected " + std::to_string(length));
    }
    const auto pixels = graph.run<int32_t, uint8_t>(ids, {1, length});
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(pixels.data()), pixels.size());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() < 3 || (arguments[1] != "encode" && arguments[1] != "decode")) {
    std::cerr << "usage: coda_tokens BUNDLE encode|decode FILE.rgb...\n";
    return 2;
  }
  try {
    Ort::Env env(ORT_LOGGING_LEVEL_ERROR, "coda_tokens");
    (arguments[1] == "encode" ? encode : decode)(env, arguments[0], {arguments.begin() + 2, arguments.end()});
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
