import java.util.List;
import org.elasticsearch.xcontent.NamedXContentRegistry;
import org.elasticsearch.xcontent.NamedXContentRegistry.Entry;
import org.elasticsearch.xcontent.ParseField;
import org.elasticsearch.xcontent.XContentParserConfiguration;
import org.elasticsearch.xcontent.json.JsonXContent;
import org.elasticsearch.xpack.core.ilm.DeleteAction;
import org.elasticsearch.xpack.core.ilm.LifecycleAction;
import org.elasticsearch.xpack.core.ilm.LifecyclePolicy;
import org.elasticsearch.xpack.core.ilm.LifecycleType;
import org.elasticsearch.xpack.core.ilm.RolloverAction;
import org.elasticsearch.xpack.core.ilm.TimeseriesLifecycleType;

/** Reads the body of a request that puts a lifecycle policy with Elasticsearch's own classes, and prints what they understood. */
public class Policy {
    public static void main(String[] args) throws Exception {
        var registry = new NamedXContentRegistry(List.of(
            new Entry(LifecycleType.class, new ParseField(TimeseriesLifecycleType.TYPE), p -> TimeseriesLifecycleType.INSTANCE),
            new Entry(LifecycleAction.class, new ParseField(RolloverAction.NAME), RolloverAction::parse),
            new Entry(LifecycleAction.class, new ParseField(DeleteAction.NAME), DeleteAction::parse)));
        try (var parser = JsonXContent.jsonXContent.createParser(XContentParserConfiguration.EMPTY.withRegistry(registry), System.in)) {
            parser.nextToken(); // {
            parser.nextToken(); // "policy"
            parser.nextToken(); // {
            var policy = LifecyclePolicy.parse(parser, "vigil");
            policy.validate();
            System.out.println(policy);
        }
    }
}
