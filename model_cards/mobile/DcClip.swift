// DC-CLIP on iOS with ONNX Runtime: labels for an image, in Chinese and English.
// Not run: this file was compiled and run on no device. Its constants are compared with the model folder by a test.

import CoreGraphics
import Foundation
import ImageIO
import OnnxRuntimeBindings

let EDGE = 256
let MEAN: [Float] = [0.5, 0.5, 0.5]
let STD: [Float] = [0.5, 0.5, 0.5]
let MAX_TEXT_LENGTH = 64
let BOS: Int64 = 0
let PAD: Int64 = 1
let EOS: Int64 = 2
let UNK = 3
let DIMENSION = 512
let LOGIT_SCALE: Float = 37.451504

enum DcClipError: Error { case notAnImage, unknownNormalizer(String), missingOutput }

/// Both towers. `tokenizer` is the location of tokenizer.json, the others are the paths of the ONNX files.
final class DcClip {
    private let environment: ORTEnv
    private let vision: ORTSession
    private let text: ORTSession
    private let tokenizer: Tokenizer

    init(visionPath: String, textPath: String, tokenizer: URL) throws {
        environment = try ORTEnv(loggingLevel: .warning)
        vision = try ORTSession(env: environment, modelPath: visionPath, sessionOptions: nil)
        text = try ORTSession(env: environment, modelPath: textPath, sessionOptions: nil)
        self.tokenizer = try Tokenizer(contentsOf: tokenizer)
    }

    /// Embedding of an image file, L2-normalized, DIMENSION numbers.
    func encodeImage(_ url: URL) throws -> [Float] {
        let shape: [NSNumber] = [1, 3, NSNumber(value: EDGE), NSNumber(value: EDGE)]
        let pixels = try tensor(try pixelValues(url), .float, shape)
        return try run(vision, ["pixel_values": pixels], "image_embeds")
    }

    /// Embeddings of texts, L2-normalized, in order.
    func encodeTexts(_ texts: [String]) throws -> [[Float]] {
        let ids = texts.map(tokenizer.encode)
        let length = ids.map(\.count).max() ?? 0
        let inputIds = ids.flatMap { $0 + Array(repeating: PAD, count: length - $0.count) }
        let mask = ids.flatMap { Array(repeating: Int64(1), count: $0.count) + Array(repeating: 0, count: length - $0.count) }
        let shape = [NSNumber(value: texts.count), NSNumber(value: length)]
        let inputs = ["input_ids": try tensor(inputIds, .int64, shape), "attention_mask": try tensor(mask, .int64, shape)]
        let values = try run(text, inputs, "text_embeds")
        return stride(from: 0, to: values.count, by: DIMENSION).map { Array(values[$0..<$0 + DIMENSION]) }
    }

    /// Labels with scores that sum to 1, highest first.
    func label(_ url: URL, _ labels: [String]) throws -> [(String, Float)] {
        let image = try encodeImage(url)
        let logits = try encodeTexts(labels).map { label in LOGIT_SCALE * zip(image, label).reduce(0) { $0 + $1.0 * $1.1 } }
        let powers = logits.map { exp($0 - (logits.max() ?? 0)) }
        let sum = powers.reduce(0, +)
        return zip(labels, powers.map { $0 / sum }).sorted { $0.1 > $1.1 }
    }

    private func tensor<T>(_ values: [T], _ type: ORTTensorElementDataType, _ shape: [NSNumber]) throws -> ORTValue {
        let data = values.withUnsafeBufferPointer { NSMutableData(data: Data(buffer: $0)) }
        return try ORTValue(tensorData: data, elementType: type, shape: shape)
    }

    private func run(_ session: ORTSession, _ inputs: [String: ORTValue], _ name: String) throws -> [Float] {
        let outputs = try session.run(withInputs: inputs, outputNames: [name], runOptions: nil)
        guard let output = outputs[name] else { throw DcClipError.missingOutput }
        let data = try output.tensorData() as Data
        return data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    }
}

// ---- image: resize to EDGE x EDGE (bicubic, antialiased), RGB, CHW, (x / 255 - MEAN) / STD ----

func pixelValues(_ url: URL) throws -> [Float] {
    // upright by the EXIF orientation, on white, 8 bits
    let options: [CFString: Any] = [
        kCGImageSourceCreateThumbnailFromImageAlways: true,
        kCGImageSourceCreateThumbnailWithTransform: true,
        kCGImageSourceThumbnailMaxPixelSize: 16384,
    ]
    guard let source = CGImageSourceCreateWithURL(url as CFURL, nil),
        let image = CGImageSourceCreateThumbnailAtIndex(source, 0, options as CFDictionary)
    else { throw DcClipError.notAnImage }
    let (width, height) = (image.width, image.height)
    var rgba = [UInt8](repeating: 255, count: 4 * width * height)
    // its own space: the model has learnt from pixels as they are stored, such as Display P3 of a phone
    let space = image.colorSpace.flatMap { $0.model == .rgb && $0.supportsOutput ? $0 : nil }
        ?? CGColorSpace(name: CGColorSpace.sRGB)!
    let info = CGImageAlphaInfo.premultipliedLast.rawValue
    let rectangle = CGRect(x: 0, y: 0, width: width, height: height)
    let isDrawn = rgba.withUnsafeMutableBytes { bytes -> Bool in
        guard let context = CGContext(data: bytes.baseAddress, width: width, height: height, bitsPerComponent: 8,
                                      bytesPerRow: 4 * width, space: space, bitmapInfo: info) else { return false }
        context.draw(image, in: rectangle)  // over the white that the buffer holds
        return true
    }
    guard isDrawn else { throw DcClipError.notAnImage }

    let (columns, lines) = (windows(width, EDGE), windows(height, EDGE))
    var output = [Float](repeating: 0, count: 3 * EDGE * EDGE)
    for channel in 0..<3 {
        var narrow = [Double](repeating: 0, count: height * EDGE)
        for y in 0..<height {
            for (x, window) in columns.enumerated() {
                var sum = 0.0
                for (k, weight) in window.weights.enumerated() {
                    sum += weight * Double(rgba[4 * (y * width + window.start + k) + channel])
                }
                narrow[y * EDGE + x] = min(255, max(0, sum.rounded()))
            }
        }
        for y in 0..<EDGE {
            let window = lines[y]
            for x in 0..<EDGE {
                var sum = 0.0
                for (k, weight) in window.weights.enumerated() { sum += weight * narrow[(window.start + k) * EDGE + x] }
                let value = Float(min(255, max(0, sum.rounded()))) / 255
                output[(channel * EDGE + y) * EDGE + x] = (value - MEAN[channel]) / STD[channel]
            }
        }
    }
    return output
}

/// First source pixel and weights of each target pixel: Keys' cubic, wider where the image shrinks.
private func windows(_ source: Int, _ target: Int) -> [(start: Int, weights: [Double])] {
    let scale = Double(source) / Double(target)
    let stretch = max(1, scale)
    return (0..<target).map { index in
        let center = (Double(index) + 0.5) * scale
        let start = max(0, Int(center - 2 * stretch + 0.5))
        let end = min(source, Int(center + 2 * stretch + 0.5))
        let weights = (start..<end).map { cubic((Double($0) - center + 0.5) / stretch) }
        let sum = weights.reduce(0, +)
        return (start, weights.map { $0 / sum })
    }
}

private func cubic(_ distance: Double) -> Double {
    let x = abs(distance)
    if x < 1 { return (1.5 * x - 2.5) * x * x + 1 }
    return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
}

// ---- text: tokenizer.json, a Unigram model ----

final class Tokenizer {
    // by code points: Swift's strings are equal if they are canonically equivalent, pieces are not
    private var pieces: [[UInt32]: (id: Int, score: Float)] = [:]
    private var steps: [(String) -> String] = []
    private var longest = 0
    private var unknownScore: Float = 0

    init(contentsOf url: URL) throws {
        let root = try JSONSerialization.jsonObject(with: Data(contentsOf: url)) as! [String: Any]
        let vocabulary = (root["model"] as! [String: Any])["vocab"] as! [[Any]]
        for (id, entry) in vocabulary.enumerated() {
            let piece = (entry[0] as! String).unicodeScalars.map(\.value)
            pieces[piece] = (id, (entry[1] as! NSNumber).floatValue)
            longest = max(longest, piece.count)
        }
        unknownScore = (pieces.values.map(\.score).min() ?? 0) - 10
        let normalizer = root["normalizer"] as! [String: Any]
        steps = try (normalizer["normalizers"] as! [[String: Any]]).map(Tokenizer.step)
    }

    private static func step(_ entry: [String: Any]) throws -> (String) -> String {
        let type = entry["type"] as! String
        switch type {
        case "NFKC": return { $0.precomposedStringWithCompatibilityMapping }
        case "Lowercase": return { $0.lowercased() }
        case "Strip": return { $0.trimmingCharacters(in: .whitespacesAndNewlines) }
        case "Replace":
            let pattern = entry["pattern"] as! [String: String]
            let content = NSRegularExpression.escapedTemplate(for: entry["content"] as! String)
            let source = pattern["Regex"] ?? NSRegularExpression.escapedPattern(for: pattern["String"]!)
            let regex = try NSRegularExpression(pattern: source)
            return { text in
                let range = NSRange(text.startIndex..., in: text)
                return regex.stringByReplacingMatches(in: text, range: range, withTemplate: content)
            }
        default: throw DcClipError.unknownNormalizer(type)
        }
    }

    /// Token ids of a text, with BOS and EOS, at most MAX_TEXT_LENGTH.
    func encode(_ text: String) -> [Int64] {
        let normal = steps.reduce(text) { value, step in step(value) }
        let words = normal.unicodeScalars.split(separator: " ")
        let ids = words.flatMap { best([0x2581] + $0.map(\.value)) }.prefix(MAX_TEXT_LENGTH - 2)
        return [BOS] + ids.map(Int64.init) + [EOS]
    }

    /// The pieces of a word whose scores have the largest sum. Neighbouring unknown characters are one piece.
    private func best(_ word: [UInt32]) -> [Int] {
        var score = [Float](repeating: -.infinity, count: word.count + 1)
        var (from, id) = (Array(repeating: 0, count: word.count + 1), Array(repeating: UNK, count: word.count + 1))
        score[0] = 0
        for start in word.indices {
            for end in start + 1...min(word.count, start + longest) {
                var found = pieces[Array(word[start..<end])]
                if found == nil && end == start + 1 { found = (UNK, unknownScore) }
                if let found, score[start] + found.score > score[end] {
                    (score[end], from[end], id[end]) = (score[start] + found.score, start, found.id)
                }
            }
        }
        var (ids, end) = ([Int](), word.count)
        while end > 0 {
            if id[end] != UNK || ids.last != UNK { ids.append(id[end]) }
            end = from[end]
        }
        return ids.reversed()
    }
}
