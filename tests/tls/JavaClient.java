import java.io.ByteArrayInputStream;
import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.List;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SNIHostName;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/**
 * A client by JSSE: java JavaClient.java PORT CA VERSION ALPN|- [CERT KEY]. Prints a line for each
 * of two connections, which JSSE makes share a session: protocol, ALPN and the server's JSON.
 */
class JavaClient {
    static final int BIG = 1 << 20;

    static String readLine(InputStream in) throws IOException {
        StringBuilder line = new StringBuilder();
        for (int c; (c = in.read()) != '\n'; ) {
            if (c < 0) {
                throw new IOException("the stream ended behind " + line);
            }
            line.append((char) c);
        }
        return line.toString();
    }

    static KeyStore store() throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        return store;
    }

    static Certificate certificate(String path) throws Exception {
        byte[] text = Files.readAllBytes(Path.of(path));
        return CertificateFactory.getInstance("X.509")
                .generateCertificate(new ByteArrayInputStream(text));
    }

    static SSLContext context(String[] args) throws Exception {
        KeyStore trusted = store();
        trusted.setCertificateEntry("ca", certificate(args[1]));
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(trusted);
        KeyManagerFactory keys = null;
        if (args.length > 5) {
            String pem = Files.readString(Path.of(args[5])).replaceAll("-----[^-]*-----|\\s", "");
            PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem));
            KeyStore own = store();
            own.setKeyEntry("own", KeyFactory.getInstance("EC").generatePrivate(spec), new char[0],
                    new Certificate[] {certificate(args[4])});
            keys = KeyManagerFactory.getInstance("PKIX");
            keys.init(own, new char[0]);
        }
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys == null ? null : keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    static void connection(SSLContext context, String[] args) throws Exception {
        int port = Integer.parseInt(args[0]);
        try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", port)) {
            SSLParameters parameters = socket.getSSLParameters();
            parameters.setProtocols(new String[] {"TLSv" + args[2]});
            parameters.setServerNames(List.of(new SNIHostName("localhost")));
            parameters.setEndpointIdentificationAlgorithm("HTTPS");
            if (!args[3].equals("-")) {
                parameters.setApplicationProtocols(args[3].split(","));
            }
            socket.setSSLParameters(parameters);
            socket.getOutputStream().write("info\n".getBytes(StandardCharsets.US_ASCII));
            InputStream in = socket.getInputStream();
            String info = readLine(in);
            socket.getOutputStream().write(("big " + BIG + "\nquit\n").getBytes(StandardCharsets.US_ASCII));
            new DataInputStream(in).readFully(new byte[BIG]);
            if (in.read() != -1) {
                throw new IOException("more than was asked for");
            }
            System.out.println(socket.getSession().getProtocol() + " "
                    + "[" + socket.getApplicationProtocol() + "] " + info);
        }
    }

    public static void main(String[] args) throws Exception {
        SSLContext context = context(args);
        try {
            connection(context, args);
            connection(context, args);
        } catch (SSLException e) {
            System.out.println("refused: " + e.getMessage());
            System.exit(1);
        }
    }
}
