// Reads one launch from the standard input, runs it, and writes the buffers back to the standard output.
#pragma once

#include <emulator.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

namespace runner {

struct Argument {
    std::string kind;  // pointer, null, int32, int64, float
    void *pointer = nullptr;
    std::size_t bytes = 0;
    std::int64_t integer = 0;
    float real = 0;
};

[[noreturn]] inline void fail(const std::string &message) {
    std::fprintf(stderr, "emulator: %s\n", message.c_str());
    std::exit(3);
}

// The argument as the kernel's parameter has it; what the driver would silently misread is an error.
template <typename T>
T as(const Argument &argument) {
    if constexpr (std::is_pointer_v<T>) {
        if (argument.kind != "pointer" && argument.kind != "null") fail("a pointer was expected, got " + argument.kind);
        return static_cast<T>(argument.pointer);
    } else if constexpr (std::is_floating_point_v<T>) {
        if (argument.kind != "float") fail("a float was expected, got " + argument.kind);
        return argument.real;
    } else {
        if (argument.kind != (sizeof(T) == 8 ? "int64" : "int32")) fail("an integer was expected, got " + argument.kind);
        return static_cast<T>(argument.integer);
    }
}

template <typename... Parameters>
struct Call {
    void (*kernel)(Parameters...);
    std::tuple<Parameters...> parameters;

    static void run(const void *call) {
        const auto &self = *static_cast<const Call *>(call);
        std::apply(self.kernel, self.parameters);
    }
};

template <typename... Parameters, std::size_t... Index>
void run(void (*kernel)(Parameters...), const std::vector<Argument> &arguments, const emulator::Launch &launch,
         unsigned long long seed, std::index_sequence<Index...>) {
    if (arguments.size() != sizeof...(Parameters)) fail("the kernel takes another number of arguments");
    const Call<Parameters...> call{kernel, {as<Parameters>(arguments[Index])...}};
    emulator::run(launch, seed, &Call<Parameters...>::run, &call);
}

struct Request {
    std::string kernel;
    emulator::Launch launch;
    unsigned long long seed;
    std::vector<Argument> arguments;

    template <typename... Parameters>
    void run_if(const char *name, void (*function)(Parameters...)) {
        if (kernel != name) return;
        runner::run(function, arguments, launch, seed, std::index_sequence_for<Parameters...>());
        kernel.clear();
    }
};

inline Request read() {
    char name[256], kind[16];
    Request request;
    int count = 0;
    emulator::Launch &launch = request.launch;
    launch.block.y = launch.block.z = 1;
    if (std::scanf("%255s %u %u %u %u %d %llu %d", name, &launch.grid.x, &launch.grid.y, &launch.grid.z,
                   &launch.block.x, &launch.shared_bytes, &request.seed, &count) != 8) {
        fail("the request cannot be read");
    }
    request.kernel = name;
    for (int i = 0; i < count; ++i) {
        Argument argument;
        long long value = 0;
        if (std::scanf("%15s %lld", kind, &value) != 2 || std::getchar() != '\n') fail("an argument cannot be read");
        argument.kind = kind;
        argument.integer = value;
        if (argument.kind == "pointer") {
            argument.bytes = value;
            argument.pointer = std::malloc(argument.bytes);  // of this very size: the address sanitiser knows its end
            if (std::fread(argument.pointer, 1, argument.bytes, stdin) != argument.bytes) fail("a buffer is incomplete");
        } else if (argument.kind == "float") {
            const auto bits = static_cast<std::uint32_t>(value);
            std::memcpy(&argument.real, &bits, 4);
        }
        request.arguments.push_back(argument);
    }
    return request;
}

inline int finish(const Request &request) {
    if (!request.kernel.empty()) fail("no kernel is called " + request.kernel);
    for (const Argument &argument : request.arguments) {
        if (argument.bytes > 0) std::fwrite(argument.pointer, 1, argument.bytes, stdout);
    }
    return std::fflush(stdout) == 0 ? 0 : 3;
}

}  // namespace runner
