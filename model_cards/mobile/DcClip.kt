// DC-CLIP on Android with ONNX Runtime: labels for an image, in Chinese and English.
// Not run: this file was compiled and run on no device. Its constants are compared with the model folder by a test.

package dcclip

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.text.Normalizer
import kotlin.math.abs
import kotlin.math.exp
import kotlin.math.max
import kotlin.math.min
import kotlin.math.roundToInt
import org.json.JSONArray
import org.json.JSONObject

const val EDGE = 256
val MEAN = floatArrayOf(0.5f, 0.5f, 0.5f)
val STD = floatArrayOf(0.5f, 0.5f, 0.5f)
const val MAX_TEXT_LENGTH = 64
const val BOS = 0L
const val PAD = 1L
const val EOS = 2L
const val UNK = 3
const val DIMENSION = 512
const val LOGIT_SCALE = 37.451504f

/** Both towers. `tokenizerJson` is the content of tokenizer.json, the others are the paths of the ONNX files. */
class DcClip(visionPath: String, textPath: String, tokenizerJson: String) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val vision: OrtSession = environment.createSession(visionPath, OrtSession.SessionOptions())
    private val text: OrtSession = environment.createSession(textPath, OrtSession.SessionOptions())
    private val tokenizer = Tokenizer(tokenizerJson)

    /** Embedding of an upright image, L2-normalized, DIMENSION numbers. Rotate by the EXIF orientation before. */
    fun encodeImage(bitmap: Bitmap): FloatArray {
        val shape = longArrayOf(1, 3, EDGE.toLong(), EDGE.toLong())
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(pixelValues(bitmap)), shape).use { pixels ->
            vision.run(mapOf("pixel_values" to pixels)).use { return rows(it, "image_embeds")[0] }
        }
    }

    /** Embeddings of texts, L2-normalized, in order. */
    fun encodeTexts(texts: List<String>): Array<FloatArray> {
        val ids = texts.map(tokenizer::encode)
        val length = ids.maxOf { it.size }
        val inputIds = LongArray(texts.size * length) { PAD }
        val mask = LongArray(texts.size * length)
        ids.forEachIndexed { row, tokens ->
            tokens.forEachIndexed { column, id ->
                inputIds[row * length + column] = id
                mask[row * length + column] = 1
            }
        }
        val shape = longArrayOf(texts.size.toLong(), length.toLong())
        OnnxTensor.createTensor(environment, LongBuffer.wrap(inputIds), shape).use { tokens ->
            OnnxTensor.createTensor(environment, LongBuffer.wrap(mask), shape).use { attention ->
                text.run(mapOf("input_ids" to tokens, "attention_mask" to attention)).use {
                    return rows(it, "text_embeds")
                }
            }
        }
    }

    /** Labels with scores that sum to 1, highest first. */
    fun label(bitmap: Bitmap, labels: List<String>): List<Pair<String, Float>> {
        val image = encodeImage(bitmap)
        val logits = encodeTexts(labels).map { label -> LOGIT_SCALE * dot(image, label) }
        val powers = logits.map { exp(it - logits.max()) }
        return labels.zip(powers.map { it / powers.sum() }).sortedByDescending { it.second }
    }

    override fun close() {
        vision.close()
        text.close()
    }

    @Suppress("UNCHECKED_CAST")
    private fun rows(result: OrtSession.Result, name: String) = result.get(name).get().value as Array<FloatArray>
}

fun dot(a: FloatArray, b: FloatArray): Float = a.indices.fold(0f) { sum, i -> sum + a[i] * b[i] }

// ---- image: resize to EDGE x EDGE (bicubic, antialiased), RGB, CHW, (x / 255 - MEAN) / STD ----

fun pixelValues(bitmap: Bitmap): FloatArray {
    val (width, height) = bitmap.width to bitmap.height
    // as they are stored: getPixels converts Display P3 to sRGB, and reads no HARDWARE bitmap
    val stored = if (bitmap.config == Bitmap.Config.ARGB_8888) bitmap else bitmap.copy(Bitmap.Config.ARGB_8888, false)
    val pixels = ByteArray(4 * width * height).also { stored.copyPixelsToBuffer(ByteBuffer.wrap(it)) }
    val (columns, lines) = windows(width, EDGE) to windows(height, EDGE)
    val output = FloatArray(3 * EDGE * EDGE)
    for (channel in 0 until 3) {
        val narrow = resizeRows(pixels, channel, width, height, columns)
        for (y in 0 until EDGE) {
            val (start, weights) = lines[y]
            for (x in 0 until EDGE) {
                var sum = 0.0
                for (k in weights.indices) sum += weights[k] * narrow[(start + k) * EDGE + x]
                val value = min(255, max(0, sum.roundToInt())) / 255f
                output[(channel * EDGE + y) * EDGE + x] = (value - MEAN[channel]) / STD[channel]
            }
        }
    }
    return output
}

/** One channel of a pixel, on white: red, green, blue and alpha are a byte each, multiplied by alpha. */
private fun flatten(pixels: ByteArray, pixel: Int, channel: Int): Int {
    val value = pixels[4 * pixel + channel].toInt() and 255
    val alpha = pixels[4 * pixel + 3].toInt() and 255
    return value + 255 - alpha
}

/** A channel, resized to the columns. */
private fun resizeRows(
    pixels: ByteArray, channel: Int, width: Int, height: Int, columns: List<Pair<Int, DoubleArray>>,
): IntArray {
    val target = IntArray(height * columns.size)
    for (y in 0 until height) {
        columns.forEachIndexed { x, (start, weights) ->
            var sum = 0.0
            for (k in weights.indices) sum += weights[k] * flatten(pixels, y * width + start + k, channel)
            target[y * columns.size + x] = min(255, max(0, sum.roundToInt()))
        }
    }
    return target
}

/** First source pixel and weights of each target pixel: Keys' cubic, wider where the image shrinks. */
private fun windows(source: Int, target: Int): List<Pair<Int, DoubleArray>> {
    val scale = source.toDouble() / target
    val stretch = max(1.0, scale)
    return List(target) { index ->
        val center = (index + 0.5) * scale
        val start = max(0, (center - 2 * stretch + 0.5).toInt())
        val end = min(source, (center + 2 * stretch + 0.5).toInt())
        val weights = DoubleArray(end - start) { cubic((start + it - center + 0.5) / stretch) }
        val sum = weights.sum()
        start to DoubleArray(weights.size) { weights[it] / sum }
    }
}

private fun cubic(distance: Double): Double {
    val x = abs(distance)
    return when {
        x < 1 -> (1.5 * x - 2.5) * x * x + 1
        x < 2 -> ((-0.5 * x + 2.5) * x - 4) * x + 2
        else -> 0.0
    }
}

// ---- text: tokenizer.json, a Unigram model ----

class Tokenizer(json: String) {
    private val pieces = HashMap<String, Pair<Int, Float>>()
    private val steps: List<(String) -> String>
    private val longest: Int
    private val unknownScore: Float

    init {
        val root = JSONObject(json)
        val vocabulary = root.getJSONObject("model").getJSONArray("vocab")
        for (id in 0 until vocabulary.length()) {
            val entry = vocabulary.getJSONArray(id)
            pieces[entry.getString(0)] = id to entry.getDouble(1).toFloat()
        }
        longest = pieces.keys.maxOf { it.length }
        unknownScore = pieces.values.minOf { it.second } - 10f
        steps = readSteps(root.getJSONObject("normalizer").getJSONArray("normalizers"))
    }

    private fun readSteps(entries: JSONArray): List<(String) -> String> =
        (0 until entries.length()).map { entries.getJSONObject(it) }.map { entry ->
            when (val type = entry.getString("type")) {
                "NFKC" -> { text: String -> Normalizer.normalize(text, Normalizer.Form.NFKC) }
                "Lowercase" -> { text: String -> text.lowercase() }
                "Strip" -> { text: String -> text.trim() }
                "Replace" -> {
                    val pattern = entry.getJSONObject("pattern")
                    val content = entry.getString("content")
                    val regex = if (pattern.has("Regex")) Regex(pattern.getString("Regex"))
                    else Regex.fromLiteral(pattern.getString("String"));
                    { text: String -> regex.replace(text, Regex.escapeReplacement(content)) }
                }
                else -> error("tokenizer.json: the normalizer $type is not supported")
            }
        }

    /** Token ids of a text, with BOS and EOS, at most MAX_TEXT_LENGTH. */
    fun encode(text: String): LongArray {
        val normal = steps.fold(text) { value, step -> step(value) }
        val words = normal.split(' ').filter { it.isNotEmpty() }
        val ids = words.flatMap { best("\u2581$it") }.take(MAX_TEXT_LENGTH - 2)
        return longArrayOf(BOS) + ids.map { it.toLong() } + longArrayOf(EOS)
    }

    /** The pieces of a word whose scores have the largest sum. Neighbouring unknown characters are one piece. */
    private fun best(word: String): List<Int> {
        val score = FloatArray(word.length + 1) { Float.NEGATIVE_INFINITY }.also { it[0] = 0f }
        val from = IntArray(word.length + 1)
        val id = IntArray(word.length + 1)
        var start = 0
        while (start < word.length) {
            val next = start + Character.charCount(word.codePointAt(start))
            var end = next
            while (end <= word.length && end - start <= longest) {
                val piece = pieces[word.substring(start, end)]
                val found = piece ?: if (end == next) UNK to unknownScore else null
                if (found != null && score[start] + found.second > score[end]) {
                    score[end] = score[start] + found.second
                    from[end] = start
                    id[end] = found.first
                }
                if (end == word.length) break
                end += Character.charCount(word.codePointAt(end))
            }
            start = next
        }
        val ids = ArrayDeque<Int>()
        var end = word.length
        while (end > 0) {
            if (id[end] != UNK || ids.firstOrNull() != UNK) ids.addFirst(id[end])
            end = from[end]
        }
        return ids
    }
}
