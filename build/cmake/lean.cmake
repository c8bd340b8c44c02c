# Included by CMake right after llama.cpp's own project() call (CMAKE_PROJECT_llama.cpp_INCLUDE).
#
# llama-cpp-python's CMakeLists forces LLAMA_BUILD_COMMON on in the cache, so a -D flag cannot turn it off; a normal
# variable set inside the project wins over the cache. Tampu calls libllama only: without `common` (argument parsing,
# chat parsers, HTTP) 83 objects are compiled instead of 193.
set(LLAMA_BUILD_COMMON OFF)
